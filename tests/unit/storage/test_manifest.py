"""The manifest: order kept, text kept to the last quote, bytes a function of the clips."""

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import DamagedStoreError
from storage.fingerprint import digest_file
from storage.manifest import SCHEMA, Clip, Manifest

CLIPS = [
    Clip(
        "v1", "a/b c.mp4", "video", ("a \"quoted\" 'text'", "two\nlines\r\nand\ttab"), "train", 1.5, 4.25, "webvid", 123
    ),
    Clip("v,2", "\u00e9\u4e2d\U0001f600.webm", "video", ("\u202eright to left", "\u0000nul"), "test", None, 3.0, "own"),
    Clip("i3", "", "image", (), "train", source="cc3m"),
]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
clips = st.builds(
    Clip,
    clip_id=st.uuids().map(str),
    media=texts.filter(lambda text: not text.startswith("/") and ".." not in text),
    kind=st.sampled_from(["video", "image"]),
    captions=st.lists(texts, max_size=3).map(tuple),
    split=texts,
    start_seconds=st.one_of(st.none(), st.floats(0, 10)),
    end_seconds=st.one_of(st.none(), st.floats(11, 20)),
    source=texts,
    media_bytes=st.integers(-1, 2**40),
)


@given(st.lists(clips, max_size=8, unique_by=lambda clip: clip.clip_id))
@settings(max_examples=50, deadline=None)
def test_any_clips_come_back_in_order(tmp_path_factory, rows):
    manifest = Manifest.write(tmp_path_factory.mktemp("m") / "manifest.parquet", rows)
    assert [manifest.clip(row) for row in range(len(manifest))] == rows


def test_by_hand(tmp_path):
    path = tmp_path / "manifest.parquet"
    manifest = Manifest.write(path, iter(CLIPS))
    assert [manifest.clip(row) for row in range(3)] == CLIPS
    assert manifest.clip_ids == ["v1", "v,2", "i3"]
    assert manifest.splits == ["test", "train"]
    assert manifest.rows_of_split("train").tolist() == [0, 2]
    assert manifest.rows_of_split("train").dtype == np.int64
    assert manifest.digest == digest_file(path)
    assert pq.read_schema(path).equals(SCHEMA)
    with pytest.raises(KeyError, match="the manifest has 'test', 'train'"):
        manifest.rows_of_split("val")
    for row in (-1, 3):
        with pytest.raises(IndexError, match="rows 0 to 2"):
            manifest.clip(row)


def test_equal_clips_give_equal_bytes_and_any_change_another_digest(tmp_path):
    changes = [
        {"clip_id": "x"},
        {"media": "x"},
        {"kind": "image"},
        {"captions": ("x",)},
        {"split": "x"},
        {"start_seconds": 0.0},
        {"end_seconds": 5.0},
        {"source": "x"},
        {"media_bytes": 0},
    ]
    variants = [CLIPS, CLIPS[::-1], *([dataclasses.replace(CLIPS[0], **change), *CLIPS[1:]] for change in changes)]
    digests = [Manifest.write(tmp_path / f"{n}.parquet", rows).digest for n, rows in enumerate(variants)]
    assert len(set(digests)) == len(variants)
    assert Manifest.write(tmp_path / "again.parquet", CLIPS).digest == digests[0]


def test_duplicate_ids_are_refused_with_both_rows(tmp_path):
    with pytest.raises(ValueError, match="clip id 'v1' is in rows 0 and 3"):
        Manifest.write(tmp_path / "m.parquet", [*CLIPS, CLIPS[0]])
    assert list(tmp_path.iterdir()) == []


def test_text_that_is_no_unicode_is_refused_by_clip(tmp_path):
    for change in ({"media": "a\udcff.mp4"}, {"captions": ("fine", "\ud800")}):
        with pytest.raises(ValueError, match=r"clip 'v1': .* is not valid Unicode"):
            Manifest.write(tmp_path / "m.parquet", [dataclasses.replace(CLIPS[0], **change)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_id": ""}, "the clip id is empty"),
        ({"media": "/etc/passwd"}, "leaves the media root"),
        ({"media": "a/../../b"}, "leaves the media root"),
        ({"kind": "audio"}, "allowed are 'video' and 'image'"),
        ({"media_bytes": -2}, "media_bytes is -2"),
        ({"start_seconds": -1.0}, "must be finite and not negative"),
        ({"end_seconds": float("nan")}, "must be finite and not negative"),
        ({"start_seconds": 4.0, "end_seconds": 4.0}, "not after its start"),
    ],
)
def test_bad_clips_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CLIPS[0], **change)


def test_an_empty_manifest(tmp_path):
    manifest = Manifest.write(tmp_path / "m.parquet", [])
    assert (len(manifest), manifest.clip_ids, manifest.splits) == (0, [], [])


def test_damage_is_named(tmp_path):
    path = tmp_path / "m.parquet"
    Manifest.write(path, CLIPS)
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedStoreError, match=r"manifest m\.parquet: not readable"):
            Manifest.read(path)
    pq.write_table(pa.table({"clip_id": ["a"]}), path)
    with pytest.raises(DamagedStoreError, match=r"columns are \['clip_id'\]"):
        Manifest.read(path)
    row = dataclasses.asdict(CLIPS[0]) | {"captions": []}
    pq.write_table(pa.Table.from_pylist([row, row], schema=SCHEMA), path)
    with pytest.raises(DamagedStoreError, match="not unique"):
        Manifest.read(path)
    with pytest.raises(FileNotFoundError):
        Manifest.read(tmp_path / "none.parquet")


def test_bytes_do_not_depend_on_the_iteration_s_chunking(tmp_path):
    many = [dataclasses.replace(CLIPS[0], clip_id=str(number)) for number in range(1000)]
    one = Manifest.write(tmp_path / "1.parquet", many)
    other = Manifest.write(tmp_path / "2.parquet", itertools.chain(many[:3], many[3:]))
    assert one.digest == other.digest
