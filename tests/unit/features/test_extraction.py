"""Frames through a real (untrained) detector into a region store, and annotated frames out of a demo corpus."""

import dataclasses

import numpy as np
import pytest
import torch

from detector.config import DetectorConfig
from detector.inference import RegionDetector
from detector.model import build_detector
from features.corpora.build import build_corpus
from features.corpora.config import DemoCorpusConfig
from features.detector_examples import detector_examples
from features.extraction import extract_shard
from features.images import decode_jpeg
from features.sampling import SamplingConfig
from storage.errors import FailedRowError
from storage.manifest import Manifest
from storage.region_store import RegionStore, RegionStoreSpec, RegionStoreWriter
from storage.shards import PartSet, ShardPlan
from tests.unit.features.stores import sample

NUM_FRAMES = 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(manifest, corpus, frame store): four demo clips, the second of which is damaged."""
    folder = tmp_path_factory.mktemp("demo")
    built = build_corpus(DemoCorpusConfig(num_train=4, num_val=0, num_test=0, num_frames=6, seed=1), folder)
    (built.media_root / built.clips[1].media).write_bytes(b"damaged")
    manifest = Manifest.write(folder / "manifest.parquet", built.clips)
    config = SamplingConfig(num_frames=NUM_FRAMES, max_side_px=96)
    frames, ledger = sample(folder / "frames", manifest, built.media_root, config)
    assert [row.status for row in ledger] == ["ok", "failed", "ok", "ok"]
    return manifest, built, frames


@pytest.fixture(scope="module")
def detector():
    torch.set_num_threads(1)
    return RegionDetector(DetectorConfig(), None, allow_random=True)


def extract(folder, corpus, detector, max_regions=None):
    manifest, _, frames = corpus
    spec = RegionStoreSpec(NUM_FRAMES, max_regions or detector.config.max_regions, detector.feature_dim)
    parts = PartSet(folder, ShardPlan(len(manifest), 100), "e" * 64)
    with parts.claim(0):
        staging = parts.staging(0)
        writer = RegionStoreWriter(staging, spec, parts.plan.range_of(0))
        ledger = extract_shard(frames, manifest, parts.plan.range_of(0), detector, writer)
        writer.close()
        parts.commit(0, staging, ledger=ledger, facts={})
    return RegionStore(folder), ledger


def test_regions_of_a_shard(corpus, detector, tmp_path):
    manifest, _, frames = corpus
    store, ledger = extract(tmp_path, corpus, detector)
    assert [(row.clip_id, row.status, row.reason) for row in ledger] == [
        (manifest.clip_ids[row], *(("failed", "upstream_failed") if row == 1 else ("ok", None))) for row in range(4)
    ]
    batch = store.read([0, 2, 3])
    assert (batch.num_regions >= 1).all()
    assert (batch.image_size_px == 128).all()
    np.testing.assert_allclose(batch.frame_seconds[0], frames.read(0).frame_seconds)
    with pytest.raises(FailedRowError, match="upstream_failed"):
        store.read([1])


def test_boxes_are_in_pixels_of_the_original_frame(corpus, detector, tmp_path):
    """Frames are stored at 96 px, the source has 128: the detector's boxes are scaled by 4/3."""
    _, _, frames = corpus
    store, _ = extract(tmp_path, corpus, detector)
    clip = frames.read(0)
    found = detector.detect([decode_jpeg(jpeg) for jpeg in clip.jpegs])[0]
    batch = store.read([0])
    count = int(batch.num_regions[0, 0])
    np.testing.assert_allclose(batch.boxes[0, 0, :count], found.boxes * 128 / 96, rtol=1e-3, atol=0.2)


def test_same_frames_same_bytes(corpus, detector, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        extract(tmp_path / name, corpus, detector)
    one, two = (
        sorted(path for path in (tmp_path / name / "parts").rglob("*") if path.is_file()) for name in ("one", "two")
    )
    assert [path.relative_to(tmp_path / "one") for path in one] == [path.relative_to(tmp_path / "two") for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two))


def test_a_frame_without_detections_has_one_marked_region(corpus, tmp_path):
    strict = DetectorConfig(score_threshold=0.999)  # an untrained network is never that sure
    store, _ = extract(tmp_path, corpus, RegionDetector(strict, None, allow_random=True))
    batch = store.read([0, 2, 3])
    assert batch.whole_image.all()
    assert (batch.num_regions == 1).all()
    np.testing.assert_allclose(batch.boxes[:, :, 0], np.broadcast_to([0, 0, 128, 128], (3, NUM_FRAMES, 4)), atol=1e-3)
    assert np.isfinite(batch.features[:, :, 0]).all()


def test_non_finite_features_go_to_the_ledger(corpus, tmp_path):
    config = DetectorConfig()
    model = build_detector(config)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    _, ledger = extract(tmp_path, corpus, RegionDetector.from_model(config, model))
    assert [str(row.reason) for row in ledger] == ["non_finite", "upstream_failed", "non_finite", "non_finite"]


def test_examples_join_stored_frames_with_their_annotation(corpus):
    manifest, built, frames = corpus
    examples = detector_examples(manifest, frames, built.boxes, range(4))
    assert len(examples) == 3 * NUM_FRAMES
    first = examples[0]
    assert first.image.shape == (96, 96, 3)
    assert first.boxes.shape == (len(first.class_ids), 4)
    assert first.boxes.max() <= 96
    sides = first.boxes[:, 2:] - first.boxes[:, :2]
    assert sides.min() > 8
    assert [len(ids) in (2, 3) for ids in first.attribute_ids] == [True] * len(first.class_ids)
    assert len(examples[1:3]) == 2
    assert dataclasses.is_dataclass(examples[-1])


def test_rows_without_annotation_are_refused(corpus, tmp_path):
    _, built, frames = corpus
    renamed = [dataclasses.replace(clip, clip_id=f"other-{clip.clip_id}") for clip in built.clips]
    manifest = Manifest.write(tmp_path / "manifest.parquet", renamed)
    with pytest.raises(ValueError, match="no annotated frame among 1 clips"):
        detector_examples(manifest, frames, built.boxes, [0])
