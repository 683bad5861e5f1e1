"""No room left: the thing is named, what was committed survives, and with room the run goes on to the same bytes."""

import contextlib
import errno
import os
import resource
import subprocess

import numpy as np
import pytest

from storage.artifact import Recipe, Workspace, payload_digests
from storage.checkpoint import CheckpointStore
from storage.durable import naming_disk_full, replace_file
from storage.errors import DiskFullError
from storage.frame_store import FrameRow, FrameStoreWriter
from storage.ledger import LedgerRow
from storage.manifest import Clip, Manifest
from storage.region_store import FrameRegions, RegionStore, RegionStoreSpec, RegionStoreWriter
from storage.shards import PartSet, ShardPlan

RECIPE = Recipe("extract", "demo", {}, {}, 1)
PLAN = ShardPlan(num_rows=4, rows_per_shard=2)
SPEC = RegionStoreSpec(num_frames=1, max_regions=2, feature_dim=4096, dtype="float32")  # 64 KiB of features a part
# A JPEG header of 32 x 24 pixels, then 20 kB that no decoder needs to see here.
JPEG = bytes.fromhex("ffd8ffc0000b080018002001011100") + bytes(20_000)


class Tmpfs:
    """A real small file system."""

    def __init__(self, folder):
        self.folder = folder

    def mount(self, kib, *options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={kib}k", *options]), "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    @contextlib.contextmanager
    def limit(self, kib):
        """Room for `kib` more than there is already (in pages of 4 KiB, whatever the files' sizes)."""
        now = os.statvfs(self.folder)
        used = (now.f_blocks - now.f_bfree) * now.f_frsize // 1024
        assert self.mount(used + kib, "remount")
        yield
        assert self.mount(100_000, "remount")


class FileSizeLimit:
    """Without the right to mount: the kernel refuses to let a file grow past the limit (EFBIG)."""

    def __init__(self, folder):
        self.folder = folder

    @contextlib.contextmanager
    def limit(self, kib):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["tmpfs", "file size limit"])
def disk(request, tmp_path):
    """A folder whose room can be limited. Where mounting is not allowed both variants limit the file size."""
    small = Tmpfs(tmp_path / "disk")
    small.folder.mkdir()
    if request.param == "tmpfs" and os.geteuid() == 0 and small.mount(100_000):
        yield small
        subprocess.run(["umount", "--lazy", str(small.folder)], check=True)
    else:
        yield FileSizeLimit(small.folder)


def region_clip(row):
    ones, boxes = np.ones(2), np.tile([0, 0, 5, 5], (2, 1))
    features = np.random.default_rng(row).normal(size=(2, SPEC.feature_dim))
    return [FrameRegions(boxes, ones, ones, ones, ones, features, 0.5, (16, 8))]


def write_regions(staging, rows):
    writer = RegionStoreWriter(staging, SPEC, rows)
    for row in rows:
        writer.write(row, region_clip(row))
    writer.close()


def write_frames(staging, rows):
    writer = FrameStoreWriter(staging)
    for row in rows:
        writer.add(FrameRow(row, f"c{row}", [0, 1], [0.0, 0.5], [JPEG, JPEG], (32, 24), "pyav", 9))
    writer.close()


def run(root, write, shards=None):
    """A sharded stage; `shards` None = all that are pending, then the record."""
    workspace = Workspace(root)
    with workspace.building(RECIPE) as build:
        parts = PartSet(build.directory, PLAN, RECIPE.fingerprint)
        for shard in parts.pending() if shards is None else shards:
            with parts.claim(shard):
                staging = parts.staging(shard)
                write(staging, PLAN.range_of(shard))
                parts.commit(shard, staging, ledger=[LedgerRow("c", PLAN.range_of(shard).start, "extract", "ok")])
        return build.commit() if shards is None else parts


@pytest.mark.parametrize("write", [write_regions, write_frames])
def test_a_sharded_stage_names_the_part_keeps_what_is_committed_and_goes_on(disk, tmp_path, write):
    root, directory = disk.folder / "w", Workspace(disk.folder / "w").directory(RECIPE)
    whole = run(tmp_path / "whole", write)
    run(root, write, shards=[0])
    first = payload_digests(directory)
    with disk.limit(40), pytest.raises(DiskFullError, match="part 000001 of extract/demo-") as caught:
        run(root, write)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert "free space and run again" in str(caught.value)
    assert payload_digests(directory) == first
    parts = PartSet.open(directory)
    assert (parts.check_all(), parts.verify(0)) == ([0], [])
    assert [path.name for path in (directory / "parts").iterdir()] == ["000000"]  # what was staged gave its room back
    made = run(root, write)
    assert payload_digests(made.path) == payload_digests(whole.path)
    if write is write_regions:
        assert RegionStore(made.path).read_all().num_regions.tolist() == [[2]] * 4


@pytest.mark.parametrize("kib", [8, 24, 48, 72])
def test_whatever_the_room_a_part_is_whole_or_absent(disk, tmp_path, kib):
    root = disk.folder / "w"
    with disk.limit(kib), contextlib.suppress(DiskFullError):
        run(root, write_frames)
    made = run(root, write_frames)
    assert Workspace(root).verify(made) == []
    assert payload_digests(made.path) == payload_digests(run(tmp_path / "whole", write_frames).path)


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(disk):
    store = CheckpointStore(disk.folder / "c")
    store.save(1, {"state.bin": b"1" * 30_000})
    with disk.limit(80), pytest.raises(DiskFullError, match="checkpoint step-00000002: could not be written"):
        store.save(2, {"state.bin": b"2" * 200_000})
    assert store.latest().read("state.bin") == b"1" * 30_000
    assert [path.name for path in store.directory.iterdir()] == ["step-00000001"]
    store.save(2, {"state.bin": b"2" * 200_000})
    assert store.latest().step == 2


def test_a_manifest_that_does_not_fit_leaves_the_old_one(disk):
    path = disk.folder / "manifest.parquet"
    old = Manifest.write(path, [Clip("a", "", "image", (), "train")])
    rng = np.random.default_rng(0)
    clips = [Clip(f"c{n}", "", "image", (rng.bytes(500).hex(),), "train") for n in range(300)]
    with disk.limit(80), pytest.raises(DiskFullError, match=r"manifest manifest\.parquet"):
        Manifest.write(path, clips)
    assert Manifest.read(path).digest == old.digest
    assert [found.name for found in disk.folder.iterdir()] == ["manifest.parquet"]


def test_a_stage_s_own_writing_is_named_too(disk):
    workspace = Workspace(disk.folder)
    with disk.limit(60), pytest.raises(DiskFullError, match="extract/demo-"):
        with workspace.building(RECIPE) as build:
            (build.directory / "model.bin").write_bytes(bytes(300_000))
    assert workspace.find(RECIPE) is None


def test_replace_file_keeps_the_old_content(disk):
    path = disk.folder / "x"
    replace_file(path, b"old")
    with disk.limit(60), pytest.raises(DiskFullError, match="x: could not be written"):
        replace_file(path, bytes(300_000))
    assert path.read_bytes() == b"old"
    assert [found.name for found in disk.folder.iterdir()] == ["x"]


def test_other_errors_pass_through():
    with pytest.raises(PermissionError), naming_disk_full("x"):
        raise PermissionError(errno.EACCES, "no")
