"""Checkpoints: atomic, checked, falling back past damage."""

import os

import pytest

from storage.artifact import payload_digests
from storage.checkpoint import CheckpointStore
from storage.errors import DamagedStoreError, OutputMissingError


def files(step):
    return {"model.safetensors": b"weights %d" % step, "state.bin": bytes([step]) * 1000}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def save(store, *steps):
    for step in steps:
        store.save(step, files(step))
    return store


def test_nothing_yet(store):
    assert store.latest() is None
    assert store.steps() == []


def test_the_newest_comes_back_and_old_ones_go(store):
    save(store, 5, 10, 15)
    latest = store.latest()
    assert latest.step == 15
    assert {name: latest.read(name) for name in latest.files} == files(15)
    assert store.steps() == [10, 15]
    assert sorted(path.name for path in store.directory.iterdir()) == ["step-00000010", "step-00000015"]


def test_an_unknown_file_is_named(store):
    with pytest.raises(OutputMissingError, match=r"step-00000001: no file 'x'; it has model\.safetensors, state\.bin"):
        save(store, 1).latest().read("x")


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [_flip, os.unlink, lambda path: os.truncate(path, 3), lambda path: os.truncate(path, 0)]
)
@pytest.mark.parametrize("name", ["model.safetensors", "state.bin", "record.json"])
def test_a_damaged_newest_falls_back_to_the_one_before(store, damage, name):
    save(store, 1, 2)
    newest = store.latest()
    damage(newest.path / name)
    assert store.latest().step == 1
    if name != "record.json":
        with pytest.raises(DamagedStoreError, match=f"step-00000002: {name}"):
            newest.read(name)
    save(store, 2, 3)  # resumed from 1
    assert store.steps() == [2, 3]
    assert store.latest().read("model.safetensors") == b"weights 3"


def test_all_damaged_is_none(store):
    save(store, 1, 2)
    for path in store.directory.glob("*/state.bin"):
        _flip(path)
    assert store.latest() is None


def test_a_damaged_later_step_never_outlives_an_earlier_good_one(tmp_path):
    store = save(CheckpointStore(tmp_path / "c", keep=1), 5, 10)
    _flip(store.latest().path / "state.bin")  # sizes still look right
    save(store, 7)
    assert store.latest().step == 7
    assert store.steps() == [7]


def test_a_whole_later_step_is_not_overtaken(store):
    save(store, 5, 10)
    with pytest.raises(ValueError, match="step-00000010 exists and is whole; resume from it"):
        save(store, 7)
    assert store.steps() == [5, 10]


def test_a_step_can_be_saved_again(store):
    save(store, 1, 2)
    store.save(2, {"other.bin": b"x"})
    assert store.latest().read("other.bin") == b"x"
    assert store.steps() == [1, 2]


def test_litter_of_a_killed_save_is_cleared_and_never_read(store):
    save(store, 1)
    (store.directory / "step-00000009.tmp-1").mkdir()
    assert store.latest().step == 1
    save(store, 2)
    assert sorted(path.name for path in store.directory.iterdir()) == ["step-00000001", "step-00000002"]


def test_looking_finishes_a_save_that_was_killed_before_dropping_old_ones(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path / "c", keep=5)
    save(store, 1, 2, 3)
    last = CheckpointStore(store.directory, keep=1)
    with monkeypatch.context() as killed:
        killed.setattr(CheckpointStore, "_drop_older", lambda *_: None)
        save(last, 4)
    assert store.steps() == [1, 2, 3, 4]
    assert store.latest().step == 4
    assert store.steps() == [4]


def test_a_damaged_newest_drops_nothing(tmp_path):
    store = save(CheckpointStore(tmp_path / "c", keep=3), 1, 2, 3)
    _flip(store.latest().path / "state.bin")
    assert store.latest().step == 2
    assert store.steps() == [1, 2, 3]


def test_bytes_do_not_depend_on_time_or_order(tmp_path):
    one, other = CheckpointStore(tmp_path / "1"), CheckpointStore(tmp_path / "2")
    one.save(3, files(3))
    other.save(3, dict(reversed(files(3).items())))
    assert payload_digests(one.directory) == payload_digests(other.directory)


@pytest.mark.parametrize("bad", [{}, {"a/b": b""}, {"record.json": b""}, {"..": b""}, {"a.tmp-1": b""}])
def test_bad_file_names(store, bad):
    with pytest.raises(ValueError, match="checkpoint of step 1: file names"):
        store.save(1, bad)


def test_bad_step_and_keep(store):
    with pytest.raises(ValueError, match="step is -1"):
        store.save(-1, files(1))
    with pytest.raises(ValueError, match="keep is 0"):
        CheckpointStore(store.directory, keep=0)
