"""The demo corpus: deterministic real clips whose captions and boxes are true of their pixels."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.corpora.build import build_corpus, corpus_identity, media_root
from features.corpora.config import DemoCorpusConfig
from features.corpora.demo_render import render
from features.corpora.demo_scenes import SceneSearchError, gap, holds, scenes_of_split
from features.corpora.demo_vocabulary import ATTRIBUTES, COLOURS, SHAPES
from features.decoding import read_frames

SMALL = DemoCorpusConfig(num_train=6, num_val=3, num_test=5, seed=3, workers=1)


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(
        b"".join(path.relative_to(folder).as_posix().encode() + path.read_bytes() for path in files)
    ).hexdigest()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, build_corpus(SMALL, folder)


def test_counts_splits_and_files(corpus):
    folder, built = corpus
    assert Counter(clip.split for clip in built.clips) == {"train": 6, "val": 3, "test": 5}
    assert built.ledger == []
    assert built.media_root == media_root(SMALL, folder) == folder / "media"
    assert all((built.media_root / clip.media).stat().st_size == clip.media_bytes for clip in built.clips)
    assert all(1 <= len(clip.captions) <= 3 for clip in built.clips if clip.split == "train")
    assert all(len(clip.captions) == 1 for clip in built.clips if clip.split != "train")
    assert len({clip.clip_id for clip in built.clips}) == len(built.clips)


def test_same_config_same_bytes_and_another_seed_another_corpus(corpus, tmp_path):
    folder, built = corpus
    again = tmp_path / "again"
    assert build_corpus(SMALL, again).clips == built.clips
    assert digest(again) == digest(folder)
    other = tmp_path / "other"
    other_clips = build_corpus(SMALL.model_copy(update={"seed": 4}), other).clips
    assert [clip.captions for clip in other_clips] != [clip.captions for clip in built.clips]
    assert (other / "vocabulary.json").read_bytes() == (folder / "vocabulary.json").read_bytes()


def test_worker_processes_do_not_change_the_bytes(tmp_path):
    config = DemoCorpusConfig(num_train=104, num_val=0, num_test=0, size_px=96, num_frames=2)
    for workers in (1, 2):
        build_corpus(config.model_copy(update={"workers": workers}), tmp_path / str(workers))
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_worker_count_is_placement():
    one, two = (corpus_identity(SMALL.model_copy(update={"workers": n})) for n in (1, 7))
    assert one == two
    assert corpus_identity(SMALL.model_copy(update={"seed": 9})) != one


def test_clips_are_real_videos(corpus):
    _, built = corpus
    decoded = read_frames(built.media_root / built.clips[0].media, [0, 15])
    assert decoded.num_source_frames == 16
    assert decoded.reader == "decord"
    assert decoded.frames[0].shape == (128, 128, 3)
    np.testing.assert_allclose(decoded.seconds, [0, 15 / 8])


def test_boxes_cover_every_frame_and_name_the_vocabulary(corpus):
    folder, built = corpus
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    assert vocabulary == {"classes": list(SHAPES), "attributes": list(ATTRIBUTES)}
    rows = pq.read_table(built.boxes).to_pylist()
    assert [(row["clip_id"], row["frame_index"]) for row in rows] == [
        (clip.clip_id, frame) for clip in built.clips for frame in range(16)
    ]
    for row in rows:
        assert 1 <= len(row["boxes"]) == len(row["class_ids"]) == len(row["attribute_ids"]) <= 4
        assert all(
            2 <= len(set(ids)) <= 3 and min(ids) >= 0 and max(ids) < len(ATTRIBUTES) for ids in row["attribute_ids"]
        )
        assert all(0 <= class_id < len(SHAPES) for class_id in row["class_ids"])


@pytest.mark.parametrize("size_px", [96, 128])
def test_objects_stay_inside_large_enough_and_in_sight(size_px):
    for item in scenes_of_split(0, "train", 60, 4):
        drawn = render(item.scene, size_px=size_px, num_frames=5)
        sides = drawn.boxes[..., 2:] - drawn.boxes[..., :2]
        assert sides.min() >= 14 * size_px / 128 - 1
        assert sides.min() >= 12
        assert drawn.boxes.min() >= 0
        assert drawn.boxes.max() <= size_px
        assert drawn.visible.min() > 0.6


def test_boxes_hold_the_colour_they_claim():
    """Plain objects: the colour nearest to the middle of the box's bright pixels is the annotated one."""
    checked = 0
    for item in scenes_of_split(1, "train", 80, 4):
        drawn = render(item.scene, size_px=128, num_frames=1)
        for thing, (x0, y0, x1, y1) in zip(item.scene.objects, drawn.boxes[0].astype(int)):
            if thing.look.texture != "plain":
                continue
            pixels = drawn.frames[0, y0:y1, x0:x1].reshape(-1, 3).astype(int)
            nearest = min(COLOURS, key=lambda name: np.sort(np.abs(pixels - COLOURS[name]).sum(1))[len(pixels) // 5])
            assert nearest == thing.look.colour
            checked += 1
    assert checked > 20


def test_every_description_is_true_and_relations_are_clear():
    for item in scenes_of_split(2, "train", 200, 4):
        assert holds(item.description, item.scene)
        if item.description.relation:
            assert gap(item.description.relation, *item.scene.objects[:2]) >= 0.12


def test_a_test_description_is_true_of_its_own_scene_alone():
    items = scenes_of_split(5, "test", 120, 4)
    true_pairs = {(i, j) for i, a in enumerate(items) for j, b in enumerate(items) if holds(a.description, b.scene)}
    assert true_pairs == {(i, i) for i in range(120)}


def test_captions_of_a_test_split_are_unique(tmp_path):
    config = DemoCorpusConfig(num_train=0, num_val=0, num_test=90, size_px=96, num_frames=1, workers=1)
    captions = [clip.captions[0] for clip in build_corpus(config, tmp_path).clips]
    assert len(set(captions)) == 90


def test_neighbours_share_most_of_their_facts():
    """Groups of distractors: most test scenes have another one that differs in a single stated fact."""
    items = scenes_of_split(0, "test", 100, 4)

    def facts(item):
        stated = [(i, *pair) for i, mention in enumerate(item.description.mentions) for pair in mention]
        return {*stated, ("relation", item.description.relation)}

    def has_near_twin(index):
        mine = facts(items[index])
        near = range(max(0, index - 3), min(len(items), index + 4))
        return any(len(mine ^ facts(items[other])) in (1, 2, 3, 4) for other in near if other != index)

    assert sum(map(has_near_twin, range(100))) > 80


def test_too_many_test_clips_are_refused_by_name(monkeypatch):
    """The world shrunk to one look: it cannot hold 300 scenes with captions of their own."""
    for name, values in (
        ("SHAPES", ("circle",)),
        ("COLOURS", {"red": 0}),
        ("TEXTURES", ("plain",)),
        ("MOTIONS", ("still",)),
    ):
        monkeypatch.setattr(f"features.corpora.demo_scenes.{name}", values)
    with pytest.raises(SceneSearchError, match=r"split 'test': only \d+ of 30 clips"):
        scenes_of_split(0, "test", 30, 4)


@pytest.mark.parametrize("change", [{"size_px": 127}, {"size_px": 64}, {"fps": 0}, {"unknown": 1}])
def test_bad_configs_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        DemoCorpusConfig(**change)
