"""Regions and captions of corpora as batches of pairs.

A clip takes part if its split is asked for, its regions are there, and (for training and ranking) it has a caption; every
other clip of the split leaves with a reason and is counted, never replaced. A row that was never written is no failure but
an incomplete store, and refused by name.
"""

from __future__ import annotations

import time
import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from storage.errors import MissingRowError
from storage.fingerprint import fingerprint
from storage.ledger import Reason
from storage.manifest import Clip, Manifest
from storage.region_store import RegionBatch, RegionStore
from storage.shards import PartSet
from vlp.batches import TextBatch, VideoBatch
from vlp.config import Config
from vlp.models.tokenizer import CaptionTokenizer
from vlp.order import SAMPLE, EpochPlan, choose_frames, draws
from vlp.train_config import DataConfig, TrainConfig

MODEL_INPUTS = ("features", "boxes", "image_size_px")


class SourceSpec(Config):
    """One split of one corpus: its manifest and its regions."""

    name: str = Field(description="Corpus, as messages and summaries call it.")
    manifest: Path = Field(description="Manifest file (path).")
    regions: Path = Field(description="Folder of the region store artifact (path).")
    split: str | None = Field("train", description="Split of the manifest; null: all clips.")


@dataclass(frozen=True)
class Exclusion:
    """A clip of the split that takes no part, and why (a ledger reason)."""

    row: int
    clip_id: str
    reason: str
    message: str


class ClipSource:
    """The usable clips of one split, in manifest order; a *place* is a position among them.

    Use `open`. Attributes:
        name: corpus.
        rows: (n,) manifest row of every place.
        excluded: clips of the split that take no part.
    """

    def __init__(
        self, spec: SourceSpec, manifest: Manifest, store: RegionStore, rows: np.ndarray, excluded: list[Exclusion]
    ) -> None:
        self.spec, self.name = spec, spec.name
        self.manifest, self.store = manifest, store
        self.rows, self.excluded = rows, excluded
        self.max_regions = self.num_frames = 0
        self._resident: RegionBatch | None = None

    @classmethod
    def open(cls, spec: SourceSpec, config: DataConfig, *, with_captions: bool) -> ClipSource:
        """Open a split and decide which of its clips take part.

        Args:
            spec: where it is.
            config: frames, regions, memory.
            with_captions: leave out clips without a caption (embedding a corpus needs none).
        Raises:
            ValueError: manifest and store have different lengths, no clip is usable, or more frames are asked for than
                stored.
            MissingRowError: a row of the split was never written.
        """
        manifest, store = Manifest.read(spec.manifest), RegionStore(spec.regions)
        if len(manifest) != store.num_rows:
            raise ValueError(
                f"{spec.name}: the manifest has {len(manifest)} clips, the region store {store.num_rows} rows; "
                "the store was made from another manifest"
            )
        split = manifest.rows_of_split(spec.split) if spec.split is not None else np.arange(len(manifest))
        excluded = _failed(spec, manifest, store, split)
        if with_captions:
            gone = {exclusion.row for exclusion in excluded}
            excluded += _without_caption(manifest, [row for row in split.tolist() if row not in gone])
        rows = np.setdiff1d(split, [exclusion.row for exclusion in excluded])
        if not len(rows):
            raise ValueError(f"{spec.name}: none of the {len(split)} clips of split {spec.split!r} is usable")
        source = cls(spec, manifest, store, rows, sorted(excluded, key=lambda exclusion: exclusion.row))
        source._prepare(config)
        return source

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, place: int) -> Clip:
        """The clip at a place."""
        return self.manifest.clip(int(self.rows[place]))

    @cached_property
    def clip_ids(self) -> list[str]:
        """Clip id of every place."""
        clip_ids = self.manifest.clip_ids
        return [clip_ids[row] for row in self.rows]

    @cached_property
    def captions(self) -> list[tuple[str, ...]]:
        """Captions of every place that hold a word."""
        return [tuple(c for c in self.clip(place).captions if has_word(c)) for place in range(len(self))]

    def identity(self) -> dict:
        """What decides the batches of this source."""
        return {
            "name": self.name,
            "split": self.spec.split,
            "manifest": self.manifest.digest,
            "regions": PartSet.open(self.spec.regions).fingerprint,
            "rows": fingerprint(self.rows.tolist()),
        }

    def require_feature_dim(self, expected: int) -> None:
        """Raises ValueError when the stored features do not fit the model."""
        found = self.store.spec.feature_dim
        if found != expected:
            raise ValueError(
                f"{self.name}: regions have {found} numbers but the model's video.feature_dim is {expected}; set it to "
                f"{found}, or extract with the detector the model was trained on"
            )

    def video_batch(self, places: np.ndarray, random: np.ndarray | None = None) -> VideoBatch:
        """Regions of some places.

        Args:
            places: (B,).
            random: (B, num_frames) uint64 draws that choose the frames, or None for the middle ones.
        Returns:
            Features in the stored dtype. A frame slot with nothing to show has an all-False mask.
        """
        frames = self.choose_frames(places, random)
        regions = self._read(places, np.maximum(frames, 0))
        num_regions = np.where(frames >= 0, regions.num_regions, 0)
        mask = np.arange(self.max_regions) < np.minimum(num_regions, self.max_regions)[..., None]
        features = np.where(mask[..., None], regions.features[:, :, : self.max_regions], 0)
        size = np.maximum(regions.image_size_px, 1).astype(np.float32)  # empty frames hold -1
        boxes = regions.boxes[:, :, : self.max_regions] / np.concatenate([size, size], axis=-1)[:, :, None]
        positions = np.broadcast_to(np.arange(self.num_frames), frames.shape)
        return VideoBatch(
            torch.from_numpy(features),
            torch.from_numpy(np.where(mask[..., None], boxes, 0).astype(np.float32)),
            torch.from_numpy(mask),
            torch.from_numpy(positions.copy()),
        )

    def choose_frames(self, places: np.ndarray, random: np.ndarray | None = None) -> np.ndarray:
        """(B, num_frames) stored frame that `video_batch` shows in each slot, -1 for an empty slot."""
        rows = self.rows[places]
        if self._resident is not None:
            counts = self._resident.num_regions[rows]
        else:
            counts = self.store.read(rows, arrays=("num_regions",)).num_regions
        return choose_frames(counts > 0, self.num_frames, random)

    def _prepare(self, config: DataConfig) -> None:
        spec = self.store.spec
        if config.num_frames > spec.num_frames:
            raise ValueError(
                f"{self.name}: num_frames is {config.num_frames} but the region store holds {spec.num_frames} per clip; "
                "lower num_frames or sample more frames"
            )
        self.num_frames, self.max_regions = config.num_frames, min(config.max_regions, spec.max_regions)
        numbers = self.store.num_rows * spec.num_frames * spec.max_regions * spec.feature_dim
        if numbers * np.dtype(spec.dtype).itemsize <= config.memory_budget_bytes:
            self._resident = self.store.read_all(MODEL_INPUTS)

    def _read(self, places: np.ndarray, frames: np.ndarray) -> RegionBatch:
        rows = self.rows[places]
        if self._resident is None:
            return self.store.read(rows, frames=frames, arrays=MODEL_INPUTS)
        at = rows[:, None], frames
        names = ("num_regions", *MODEL_INPUTS)
        return RegionBatch(rows=rows, **{name: getattr(self._resident, name)[at] for name in names})


@dataclass(frozen=True)
class PairBatch:
    """B pairs of one corpus: video i and caption i belong together."""

    source: str
    clip_ids: tuple[str, ...]
    videos: VideoBatch
    texts: TextBatch

    def clips_with_non_finite_features(self) -> list[str]:
        """Clips whose real regions hold NaN or infinity."""
        broken = ~torch.isfinite(self.videos.features) & self.videos.region_mask[..., None]
        return [clip_id for clip_id, bad in zip(self.clip_ids, broken.flatten(1).any(dim=1), strict=True) if bad]


class TrainingData:
    """The batches of a training run, each a pure function of the configuration and the step."""

    def __init__(self, sources: Sequence[ClipSource], config: TrainConfig, tokenizer: CaptionTokenizer) -> None:
        self.sources = list(sources)
        self.config = config
        self.tokenizer = tokenizer
        try:
            self.plan = EpochPlan(
                [len(source) for source in sources],
                batch_size=config.batch_size,
                seed=config.seed,
                max_samples_per_epoch=config.max_samples_per_epoch,
            )
        except ValueError as error:
            names = ", ".join(f"{i} = {source.name!r}" for i, source in enumerate(sources))
            raise ValueError(f"{error} (corpora: {names})") from error

    def batch(self, global_step: int) -> PairBatch:
        """The batch of the step after `global_step` finished ones. Frames and captions are drawn per clip and epoch."""
        epoch, step = self.plan.position(global_step)
        index, places = self.plan.batch(epoch, step)
        source = self.sources[index]
        random = self._draws(epoch, index, source.rows[places])
        captions = [source.captions[place] for place in places]
        chosen = [texts[int(draw % len(texts))] for texts, draw in zip(captions, random[:, 0].tolist(), strict=True)]
        frames = random[:, 1:] if self.config.data.frame_sampling == "random" else None
        return PairBatch(
            source.name,
            tuple(source.clip_ids[place] for place in places),
            source.video_batch(places, frames),
            self.tokenizer(chosen),
        )

    def read_ahead(self, first: int, stop: int) -> Iterator[tuple[PairBatch, float]]:
        """Batches of steps first to stop - 1 and the seconds each was waited for; a thread prepares the next ones."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as reader:
            ahead: deque = deque()
            try:
                upcoming = iter(range(first, stop))
                for step in upcoming:
                    ahead.append(reader.submit(self.batch, step))
                    if len(ahead) > self.config.data.prefetch_batches:
                        break
                while ahead:
                    began = time.monotonic()
                    batch = ahead.popleft().result()
                    waited = time.monotonic() - began
                    for step in upcoming:
                        ahead.append(reader.submit(self.batch, step))
                        break
                    yield batch, waited
            finally:
                for future in ahead:
                    future.cancel()

    def _draws(self, epoch: int, index: int, rows: np.ndarray) -> np.ndarray:
        """(B, 1 + num_frames) uint64: for the caption, then for the frames. They depend on a clip's row, not on its
        place, so that a clip that leaves the plan changes nothing in the others."""
        count = 1 + self.config.data.num_frames
        return np.stack([draws(count, self.config.seed, epoch, SAMPLE, index, int(row)) for row in rows])


def _failed(spec: SourceSpec, manifest: Manifest, store: RegionStore, split: np.ndarray) -> list[Exclusion]:
    """Clips of the split without regions, with what the store's ledger says about them."""
    absent = np.setdiff1d(split, store.ok_rows()).tolist()
    for row in absent:
        if store.status(row) == "missing":
            raise MissingRowError(
                f"{spec.name}: clip {manifest.clip_ids[row]!r} (row {row}): regions were never written; finish the "
                "extraction first ('regionvlp why extract')"
            )
    if not absent:
        return []
    told = {entry["row"]: entry for entry in PartSet.open(spec.regions).ledger().to_pylist() if entry["status"] != "ok"}
    silent = {"reason": Reason.UPSTREAM_FAILED.value, "message": "no regions, and the ledger does not say why"}
    return [
        Exclusion(row, manifest.clip_ids[row], entry["reason"], entry["message"])
        for row, entry in ((row, told.get(row, silent)) for row in absent)
    ]


def _without_caption(manifest: Manifest, rows: Sequence[int]) -> list[Exclusion]:
    return [
        Exclusion(row, manifest.clip_ids[row], Reason.EMPTY_CAPTION.value, "the clip has no caption with a word")
        for row in rows
        if not any(has_word(caption) for caption in manifest.clip(row).captions)
    ]


def has_word(caption: str) -> bool:
    """Whether a tokenizer finds something in a caption: a letter, number, punctuation mark or symbol. Control characters,
    lone accents and the replacement character are cleaned away by BERT's normalizer."""
    return any(unicodedata.category(c)[0] in "LNPS" and c != "\ufffd" for c in caption)
