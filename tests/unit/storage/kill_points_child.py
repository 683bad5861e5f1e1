"""Run one scenario, killed with SIGKILL at every write point in turn; run by test_kill_points.py in a process of its own.

A write point is a call of rename, replace, link, unlink, mkdir, rmdir or fsync. For every n the scenario runs in a forked
process that kills itself right before its n-th write point, then again to the end, as a second run would. Prints JSON:
the number of write points and everything that was wrong.
"""

import io
import itertools
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from storage.artifact import Recipe, Workspace, payload_digests
from storage.checkpoint import CheckpointStore
from storage.errors import DamagedStoreError, MissingRowError
from storage.frame_store import FrameRow, FrameStore, FrameStoreWriter
from storage.ledger import LedgerRow
from storage.manifest import Clip, Manifest
from storage.region_store import FrameRegions, RegionStore, RegionStoreSpec, RegionStoreWriter
from storage.shards import PartSet, ShardPlan

WRITE_POINTS = ("rename", "replace", "link", "unlink", "mkdir", "rmdir", "fsync")
RECIPE = Recipe("stage", "demo", {"a": 1}, {}, 1)
PLAN = ShardPlan(num_rows=3, rows_per_shard=2)


def write_parts(root: Path, write: Callable[[Path, range], None], plan: ShardPlan) -> None:
    """The protocol every sharded stage follows."""
    workspace = Workspace(root)
    if workspace.find(RECIPE):
        return
    with workspace.building(RECIPE) as build:
        parts = PartSet(build.directory, plan, RECIPE.fingerprint)
        parts.sweep()
        for shard in parts.pending():
            with parts.claim(shard):
                staging = parts.staging(shard)
                write(staging, plan.range_of(shard))
                parts.commit(shard, staging, ledger=[LedgerRow("c", plan.range_of(shard).start, "s", "ok")])
        parts.sweep()
        build.commit()


def write_plain(staging: Path, rows: range) -> None:
    (staging / "x.bin").write_text(f"rows {rows}")


def write_frames(staging: Path, rows: range) -> None:
    writer = FrameStoreWriter(staging)
    for row in rows:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 8), (row, row, row)).save(buffer, "JPEG")
        writer.add(FrameRow(row, f"c{row}", [row], [0.5], [buffer.getvalue()], (16, 8), "pyav", 9))
    writer.close()


def write_regions(staging: Path, rows: range) -> None:
    writer = RegionStoreWriter(staging, RegionStoreSpec(1, 2, 3), rows)
    for row in rows:
        ones = np.full(2, row + 1)
        boxes, features = np.tile([0, 0, row + 1, 9], (2, 1)), np.full((2, 3), row)
        writer.write(row, [FrameRegions(boxes, ones, ones, ones, ones, features, 0.5, (16, 8))])
    writer.close()


def stage_parts(root: Path) -> None:
    write_parts(root, write_plain, PLAN)


def stage_frames(root: Path) -> None:
    write_parts(root, write_frames, PLAN)


def stage_regions(root: Path) -> None:
    write_parts(root, write_regions, ShardPlan(num_rows=2, rows_per_shard=2))


def stage_manifest(root: Path) -> None:
    workspace = Workspace(root)
    if workspace.find(RECIPE):
        return
    with workspace.building(RECIPE) as build:
        Manifest.write(
            build.directory / "manifest.parquet", [Clip(f"c{n}", "", "image", ("x",), "train") for n in range(9)]
        )
        build.commit()


def stage_training(root: Path) -> None:
    """Four checkpoints, the last of which replaces all others; a second run goes on from the newest whole one."""
    workspace = Workspace(root)
    if workspace.find(RECIPE):
        return
    with workspace.building(RECIPE) as build:
        store = CheckpointStore(build.directory / "checkpoints", keep=2)
        found = store.latest()
        state = found.read("state.bin") if found else b""
        for step in range(found.step + 1 if found else 1, 5):
            state += b"%d" % step
            last = CheckpointStore(store.directory, keep=1) if step == 4 else store
            last.save(step, {"state.bin": state, "model.bin": state[::-1]})
        build.commit()


SCENARIOS = {
    "parts": stage_parts,
    "frames": stage_frames,
    "regions": stage_regions,
    "manifest": stage_manifest,
    "training": stage_training,
}


def fake_fsync(_descriptor: int) -> None:
    """SIGKILL loses nothing that was written; real syncing would only make 300 runs slow."""


def kill_before(number: int) -> None:
    """From now on the process dies right before its write point of this number (from 1)."""
    count, lock = itertools.count(1), threading.Lock()
    for name in WRITE_POINTS:
        setattr(os, name, _counted(getattr(os, name), count, lock, number))


def _counted(function: Callable, count: itertools.count, lock: threading.Lock, number: int) -> Callable:
    def wrapper(*arguments, **keywords):
        with lock:
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)

    return wrapper


def forked(work: Callable[[Path], None], root: Path, number: int = 0) -> int:
    """Wait status of the scenario in a forked process, killed at write point `number` (0: not killed)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if number:
                kill_before(number)
            work(root)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def problems_after_kill(root: Path) -> list[str]:
    """What a reader must never see, whenever the writer died."""
    workspace, problems = Workspace(root), []
    artifact = workspace.find(RECIPE)
    if artifact is not None:
        problems += workspace.verify(artifact)
    directory = workspace.directory(RECIPE)
    try:
        parts = PartSet.open(directory)
        problems += [problem for shard in parts.check_all() for problem in parts.verify(shard)]
    except MissingRowError:
        pass  # nothing committed yet
    except DamagedStoreError as error:
        problems.append(f"a committed part is damaged: {error}")
    checkpoint = CheckpointStore(directory / "checkpoints").latest()
    if checkpoint is not None and checkpoint.read("state.bin") != b"1234"[: checkpoint.step]:
        problems.append(f"checkpoint {checkpoint.step} holds another state")
    return problems


def problems_after_resume(root: Path, whole: Path) -> list[str]:
    """The resumed run must equal the uninterrupted one and leave nothing behind."""
    problems = []
    workspace = Workspace(root)
    directory = workspace.directory(RECIPE)
    artifact = workspace.find(RECIPE)
    if artifact is None or workspace.verify(artifact):
        problems.append(f"not done after the second run: {workspace.state(RECIPE)}")
    if payload_digests(directory) != payload_digests(Workspace(whole).directory(RECIPE)):
        problems.append("payload differs from the uninterrupted run")
    kept = {path.relative_to(directory) for path in directory.rglob("*") if "leases" not in path.parts}
    wanted = Workspace(whole).directory(RECIPE)
    litter = kept - {path.relative_to(wanted) for path in wanted.rglob("*")}
    return problems + [f"litter: {path}" for path in sorted(litter)]


def readable(root: Path, name: str) -> None:
    """The finished store opens and gives its rows."""
    directory = Workspace(root).directory(RECIPE)
    if name == "regions":
        assert RegionStore(directory, RECIPE.fingerprint).read_all().num_regions.tolist() == [[2], [2]]
    if name == "frames":
        assert [row.row for row in FrameStore(directory, RECIPE.fingerprint).rows()] == [0, 1, 2]


def sweep(name: str, folder: Path) -> dict:
    work, whole, problems = SCENARIOS[name], folder / "whole", []
    assert forked(work, whole) == 0, "the uninterrupted run failed"
    for number in itertools.count(1):
        root = folder / "killed"
        status = forked(work, root, number)
        if status == 0:
            break
        found = [] if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else [f"wait status {status}"]
        found += problems_after_kill(root)
        found += [] if forked(work, root) == 0 else ["the second run failed"]
        found += problems_after_resume(root, whole)
        problems += [f"killed before write point {number}: {problem}" for problem in found]
        shutil.rmtree(root)
    readable(whole, name)
    return {"write_points": number - 1, "problems": problems}


if __name__ == "__main__":
    os.fsync = fake_fsync
    print(json.dumps(sweep(sys.argv[1], Path(sys.argv[2]))))
