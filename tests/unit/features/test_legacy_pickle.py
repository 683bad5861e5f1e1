"""Pickles of region files: numbers come out, nothing runs."""

import io
import os
import pickle
import zipfile
from functools import partial

import numpy as np
import pytest

from features.legacy_pickle import ForbiddenPickleError, read_plain_pickle
from features.legacy_regions import LegacyRegionError, padded, read_frames_of_video, read_region_file

INFO = {
    "image_id": "v_0",
    "image_h": np.int64(360),
    "image_w": 640,
    "num_boxes": 3,
    "objects_id": np.array([5, 6, 7]),
    "objects_conf": np.array([0.2, 0.9, 0.2], np.float32),
    "attrs_id": np.array([1, 2, 3], dtype=">i4"),
    "attrs_conf": np.array([0.5, 0.6, 0.7]),
}


class Runs:
    """Pickles into a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_file(path, info=INFO, boxes=3, **arrays):
    x = np.arange(boxes * 4, dtype=np.float16).reshape(boxes, 4)
    bbox = np.arange(boxes * 4, dtype=np.float32).reshape(boxes, 4)
    np.savez_compressed(path, **{"x": x, "bbox": bbox, "num_bbox": boxes, "info": info, **arrays})
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_come_out_in_every_protocol(protocol):
    plain = read_plain_pickle(pickle.dumps(np.array(INFO, dtype=object), protocol))
    assert list(plain) == list(INFO)
    for key, value in INFO.items():
        np.testing.assert_array_equal(plain[key], value)


@pytest.mark.parametrize(
    "evil",
    [
        Runs(os.system, "touch EXECUTED"),
        Runs(eval, "open('EXECUTED', 'w')"),
        Runs(partial, print),
        Runs(np.load, "x.npy"),
        Runs(np.frombuffer, b"12345678"),
        {"a": [Runs(os.mkdir, "EXECUTED")]},
        io.StringIO,
        np.array([Runs(os.mkdir, "EXECUTED")], dtype=object),
    ],
    ids=["system", "eval", "partial", "load", "frombuffer", "nested", "class", "in-array"],
)
def test_nothing_else_is_called(evil, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ForbiddenPickleError, match=r"it names .*; allowed are numpy arrays"):
        read_plain_pickle(pickle.dumps(evil))
    assert not (tmp_path / "EXECUTED").exists()


def test_a_forged_dtype_is_refused():
    """An object array whose state claims raw bytes: numpy itself would read them as pointers."""
    reconstruct = Runs(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b")

    class Forged:
        def __reduce__(self):
            return (*reconstruct.__reduce__(), (1, (1,), np.dtype("O"), False, b"\x41" * 8))

    with pytest.raises(ForbiddenPickleError, match="dtype 'O8'"):
        read_plain_pickle(pickle.dumps(Forged()))


@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x04\x95", pickle.dumps({"a": 1})[:-3]])
def test_damaged_pickles_are_refused(content):
    with pytest.raises(ForbiddenPickleError, match="damaged"):
        read_plain_pickle(content)


def test_regions_are_ordered_by_confidence_and_ties_keep_file_order(tmp_path):
    regions = read_region_file(write_file(tmp_path / "0.npz"))
    assert regions.class_ids.tolist() == [6, 5, 7]
    assert regions.attribute_ids.tolist() == [2, 1, 3]
    assert regions.boxes[:, 0].tolist() == [4, 0, 8]
    assert regions.features.dtype == np.float32
    assert regions.image_size_px == (640, 360)
    stored = regions.frame_regions(2, 1.5)
    assert (len(stored.boxes), stored.frame_seconds, stored.scores.tolist()) == (
        2,
        1.5,
        [np.float32(0.9), np.float32(0.2)],
    )


def test_files_without_attributes_say_none(tmp_path):
    info = {key: value for key, value in INFO.items() if not key.startswith("attrs")}
    regions = read_region_file(write_file(tmp_path / "0.npz", info))
    assert regions.attribute_ids.tolist() == [-1] * 3


def test_padding_repeats_the_last_region_under_a_mask(tmp_path):
    regions = padded([read_region_file(write_file(tmp_path / "0.npz"))], 5)
    assert regions.boxes[0, :, 0].tolist() == [4, 0, 8, 8, 8]
    assert regions.mask[0].tolist() == [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"info": Runs(os.getcwd)}, "posix.getcwd"),
        ({"info": {**INFO, "objects_conf": np.zeros(2)}}, r"objects_conf.*expected 3 numbers"),
        ({"info": {"image_w": 640, "image_h": 360}}, "objects_conf"),
        ({"info": {**INFO, "image_w": "wide"}}, "image_w"),
        ({"info": [1]}, "holds a list, expected a dict|expected one object"),
        ({"bbox": np.zeros((2, 4), np.float32)}, "do not belong together"),
        ({"x": np.array([[None]])}, "damaged array"),
    ],
)
def test_wrong_files_are_named(tmp_path, change, message):
    arrays = {"info": INFO, **change}
    with pytest.raises(LegacyRegionError, match=r"region file 0\.npz: .*(?:" + message + ")"):
        read_region_file(write_file(tmp_path / "0.npz", np.array(arrays.pop("info"), dtype=object), **arrays))


def test_other_files_are_named(tmp_path):
    (tmp_path / "0.npz").write_bytes(b"no zip")
    with pytest.raises(LegacyRegionError, match=r"0\.npz"):
        read_region_file(tmp_path / "0.npz")
    with zipfile.ZipFile(tmp_path / "1.npz", "w") as archive:
        archive.writestr("y.npy", b"")
    with pytest.raises(LegacyRegionError, match=r"x\.npy is missing"):
        read_frames_of_video(tmp_path, [1])
    with pytest.raises(FileNotFoundError):
        read_frames_of_video(tmp_path, [2])
    with pytest.raises(ValueError, match="no frame was asked for"):
        read_frames_of_video(tmp_path, [])
