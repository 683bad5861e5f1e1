"""Tiny corpora, written through storage: a clip shows a colour and a shape, its caption names both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from storage.ledger import LedgerRow, Reason
from storage.manifest import Clip, Manifest
from storage.region_store import FrameRegions, RegionStoreSpec, RegionStoreWriter
from storage.shards import PartSet, ShardPlan
from vlp.config import ModelConfig
from vlp.data import SourceSpec

COLORS = ("red", "green", "blue", "white", "black", "pink")
SHAPES = ("circle", "square", "star", "ring", "cross", "heart")
FEATURE_DIM, NUM_FRAMES, MAX_REGIONS = 12, 4, 3
FRAME_SIZE_PX = (64, 48)


def features_of(color: int, shape: int, rng: np.random.Generator) -> np.ndarray:
    """(2, 12): one region of the colour, one of the shape, each a fixed direction plus noise."""
    regions = np.zeros((2, FEATURE_DIM), np.float32)
    regions[0, color] = regions[1, len(COLORS) + shape] = 2.0
    return regions + 0.1 * rng.standard_normal(regions.shape).astype(np.float32)


def frame(color: int, shape: int, second: float, rng: np.random.Generator) -> FrameRegions:
    corner = rng.uniform(0, 20, (2, 2))
    size = rng.uniform(5, 20, (2, 2))
    return FrameRegions(
        boxes=np.concatenate([corner, corner + size], axis=1).astype(np.float32),
        scores=np.array([0.9, 0.8], np.float32),
        class_ids=np.array([shape, shape], np.int32),
        attribute_ids=np.array([color, -1], np.int32),
        attribute_scores=np.array([0.7, 0.1], np.float32),
        features=features_of(color, shape, rng),
        frame_seconds=second,
        image_size_px=FRAME_SIZE_PX,
    )


@pytest.fixture(scope="session")
def write_corpus() -> Callable[..., SourceSpec]:
    """Function that writes a manifest and a region store and returns their SourceSpec.

    Clip i shows colour and shape number i of all combinations (then again); `failed` rows have no regions, `speechless`
    ones no caption; a clip has `captions` captions; the last fifth is split "test".
    """

    def write(
        directory: Path,
        num_clips: int = 30,
        *,
        name: str = "tiny",
        seed: int = 0,
        failed: Sequence[int] = (),
        speechless: Sequence[int] = (),
        captions: int = 1,
        num_frames: int = NUM_FRAMES,
        pending: Sequence[int] = (),
    ) -> SourceSpec:
        rng = np.random.default_rng(seed)
        kinds = list(itertools.islice(itertools.cycle(itertools.product(range(6), range(6))), num_clips))
        kinds = [kinds[i] for i in rng.permutation(num_clips)]
        texts = ("a {} {}", "there is a {} {} here", "{} {}")
        clips = [
            Clip(
                clip_id=f"{name}-{row:03d}",
                media=f"{name}-{row:03d}.mp4",
                kind="video",
                captions=()
                if row in speechless
                else tuple(texts[c % 3].format(COLORS[color], SHAPES[shape]) for c in range(captions)),
                split="test" if row >= num_clips * 4 // 5 else "train",
                source=name,
            )
            for row, (color, shape) in enumerate(kinds)
        ]
        manifest = directory / f"{name}.parquet"
        Manifest.write(manifest, clips)
        regions = directory / f"{name}-regions"
        parts = PartSet(regions, ShardPlan(num_clips, 16), "f" * 64)
        spec = RegionStoreSpec(num_frames, MAX_REGIONS, FEATURE_DIM, "float32")
        for shard in range(parts.plan.num_shards):
            if shard not in pending:
                _write_part(parts, shard, spec, kinds, failed, clips, rng)
        return SourceSpec(name=name, manifest=manifest, regions=regions, split="train")

    return write


@pytest.fixture(scope="session")
def tiny_model() -> ModelConfig:
    """A model of a few thousand weights that learns the tiny corpus in seconds; dropout on."""
    return ModelConfig.model_validate(
        {
            "embedding_dim": 16,
            "video": {"feature_dim": FEATURE_DIM, "width": 32, "depth": 1, "num_heads": 2, "dropout": 0.1},
            "text": {
                "pretrained_name": None,
                "width": 32,
                "depth": 1,
                "num_heads": 2,
                "max_tokens": 12,
                "tokenizer": {"kind": "word", "min_count": 1},
            },
        }
    )


def _write_part(parts, shard, spec, kinds, failed, clips, rng) -> None:
    lease = parts.claim(shard)
    staging = parts.staging(shard)
    rows = parts.plan.range_of(shard)
    writer = RegionStoreWriter(staging, spec, rows)
    ledger = []
    for row in rows:
        if row in failed:
            writer.write_failed(row)
            ledger.append(
                LedgerRow(clips[row].clip_id, row, "extract", "failed", Reason.UNREADABLE, "no frame decodes")
            )
            continue
        count = spec.num_frames - (row % 5 == 4 and spec.num_frames > 1)  # every fifth clip lacks its last frame
        writer.write(row, [frame(*kinds[row], float(second), rng) for second in range(count)])
        ledger.append(LedgerRow(clips[row].clip_id, row, "extract", "ok"))
    writer.close()
    parts.commit(shard, staging, ledger=ledger)
    lease.release()
