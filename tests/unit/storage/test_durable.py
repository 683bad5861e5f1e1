"""Durable writes and provenance."""

import subprocess

import numpy as np
import pytest

from storage.durable import (
    digest_bytes,
    digest_file,
    file_entry,
    publish_once,
    remove_tree,
    replace_file,
    sync_tree,
    tree_files,
)
from storage.provenance import git_state, provenance


def test_replace_makes_folders_and_leaves_no_litter(tmp_path):
    path = tmp_path / "a" / "b"
    for data in (b"one", b"two"):
        replace_file(path, data)
        assert path.read_bytes() == data
    assert tree_files(tmp_path) == ["a/b"]


def test_only_the_first_publishes(tmp_path):
    path = tmp_path / "a" / "record.json"
    assert [publish_once(path, data) for data in (b"one", b"two")] == [True, False]
    assert path.read_bytes() == b"one"
    assert tree_files(tmp_path) == ["a/record.json"]


def test_everything_is_synced_before_the_rename(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(__import__("os"), name)
        monkeypatch.setattr(f"os.{name}", lambda *a, _name=name, _call=original: (calls.append(_name), _call(*a))[1])
    replace_file(tmp_path / "x", b"x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, the name, the folder


def test_a_tree_is_listed_digested_and_removed(tmp_path):
    root = tmp_path / "t"
    (root / "b").mkdir(parents=True)
    (root / "b" / "y").write_bytes(b"yy")
    (root / "a").write_bytes(b"a")
    sync_tree(root)
    assert tree_files(root) == ["a", "b/y"]
    assert file_entry(root / "b" / "y") == {"bytes": 2, "digest": digest_bytes(b"yy")}
    assert digest_file(root / "a") == digest_bytes(b"a")
    remove_tree(root)
    remove_tree(root)
    assert not root.exists()


class TestProvenance:
    def git(self, folder, *arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)

    def test_commit_and_dirty_flag(self, tmp_path):
        assert git_state(tmp_path) is None
        self.git(tmp_path, "init")
        assert git_state(tmp_path) is None  # no commit yet
        (tmp_path / "x").write_text("x")
        self.git(tmp_path, "add", "x")
        self.git(tmp_path, "commit", "-m", "m")
        clean = git_state(tmp_path)
        assert (len(clean["commit"]), clean["dirty"]) == (40, False)
        (tmp_path / "x").write_text("y")
        assert git_state(tmp_path) == {"commit": clean["commit"], "dirty": True}

    def test_versions_and_host(self):
        found = provenance()
        assert found["packages"]["numpy"] == np.__version__
        assert found["host"]

    def test_without_git(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert git_state() is None


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_digest_of_any_size(tmp_path, size):
    path = tmp_path / "x"
    path.write_bytes(bytes(size))
    assert digest_file(path) == digest_bytes(bytes(size))
