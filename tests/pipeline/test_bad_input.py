"""Bad input: a clear error each time, and nothing that was done is lost."""

import json
import os
import shutil
import subprocess

import pytest
from pipeline.harness import STEPS, TINY, payloads

from flows.config import load_config
from flows.graph import build_dag
from storage.artifact import Workspace
from storage.ledger import read_ledger


@pytest.fixture
def corpus_of_videos(finished, tmp_path):
    """A folder of six good clips and a function that writes its annotation table."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, source in enumerate(sorted(finished.glob("corpora/pretrain-*/media/*.mp4"))[:6]):
        shutil.copy(source, folder / f"clip{number}.mp4")

    def write(rows: list[tuple[str, str, str]]):
        table = folder / "clips.csv"
        table.write_text("clip_id,file,caption\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
        return table

    return folder, write


def run_table(command_line, workspace, table, *more):
    """Read and sample a table of one's own."""
    corpus = json.dumps({"kind": "table", "annotations": str(table)})
    arguments = ("--set", f"corpora.mine.corpus={corpus}", "--set", "corpora.mine.sampling.num_frames=2", *more)
    return command_line.run_tiny(workspace, *arguments, "--until", "sample-mine")


def rows_of(workspace, stage):
    """Ledger rows that are not 'ok' of the corpus 'mine'."""
    folder = next(a.path for a in Workspace(workspace).artifacts(stage) if a.name == "mine")
    paths = [*folder.glob("ledger.parquet"), *sorted(folder.glob("ledger/*.parquet"))]
    return {
        row["clip_id"]: row["reason"]
        for path in paths
        for row in read_ledger(path).to_pylist()
        if row["status"] != "ok"
    }


def test_bad_clips_become_ledger_rows(corpus_of_videos, command_line, tmp_path):
    folder, write = corpus_of_videos
    (folder / "garbage.mp4").write_bytes(b"\0" * 5000)
    (folder / "empty.mp4").write_bytes(b"")
    (tmp_path / "outside.mp4").write_bytes((folder / "clip0.mp4").read_bytes())
    os.symlink(tmp_path / "outside.mp4", folder / "link.mp4")
    good = [(f"good{n}", f"clip{n}.mp4", "a red circle") for n in range(6)]
    bad = [
        ("gone", "gone.mp4", "missing media"), ("dots", "../outside.mp4", "leaves the folder"), ("link", "link.mp4", "a link out"),
        ("silent", "clip1.mp4", ""), ("garbage", "garbage.mp4", "not a video"), ("empty", "empty.mp4", "no bytes"),
    ]  # fmt: skip
    outcome = run_table(command_line, tmp_path / "w", write(good + bad))
    assert outcome.code == 0, outcome.stderr
    left_out, failed = rows_of(tmp_path / "w", "corpora"), rows_of(tmp_path / "w", "sample")
    assert left_out == {"gone": "missing", "dots": "outside_root", "link": "outside_root", "silent": "empty_caption"}
    assert set(failed) == {"garbage", "empty"}
    assert failed["garbage"] == "unreadable"


def test_too_many_failures_stop_the_run_and_keep_what_is_done(corpus_of_videos, command_line, tmp_path):
    folder, write = corpus_of_videos
    for number in range(5):
        (folder / f"clip{number}.mp4").write_bytes(b"broken")
    table = write([(f"c{n}", f"clip{n}.mp4", "a circle") for n in range(6)])
    stopped = run_table(command_line, tmp_path / "w", table)
    assert stopped.code == 1
    assert "5 of 6 clips failed" in stopped.stderr
    assert "execution.max_failed_fraction" in stopped.stderr
    allowed = run_table(command_line, tmp_path / "w", table, "--set", "execution.max_failed_fraction=0.9")
    assert allowed.code == 0, allowed.stderr
    assert allowed.built() == ["sample-mine"]


def test_duplicate_ids_name_both_lines(corpus_of_videos, command_line, tmp_path):
    _, write = corpus_of_videos
    outcome = run_table(
        command_line, tmp_path / "w", write([("a", "clip0.mp4", "x"), ("b", "clip1.mp4", "y"), ("a", "clip2.mp4", "z")])
    )
    assert outcome.code == 1
    assert "'a'" in outcome.stderr
    assert "clips.csv:2" in outcome.stderr or "line 2" in outcome.stderr
    assert "clips.csv:4" in outcome.stderr or "line 4" in outcome.stderr


def test_a_wrong_weights_file_is_refused(copy_of_finished, command_line, tmp_path):
    wrong = next(copy_of_finished.glob("pretrain/*/model/model.safetensors"))
    before = payloads(copy_of_finished)
    tree = {"model": {"preset": "demo", "max_regions": 6}, "weights": str(wrong)}
    outcome = command_line.run_tiny(copy_of_finished, "--set", f"detector={json.dumps(tree)}")
    assert outcome.code == 1
    assert "model.safetensors" in outcome.stderr
    absent = command_line.run_tiny(
        copy_of_finished, "--set", f"detector={json.dumps(tree | {'weights': 'nope.safetensors'})}"
    )
    assert absent.code == 1
    assert "nope.safetensors" in absent.stderr
    assert payloads(copy_of_finished) == before


def test_a_store_of_another_configuration_is_refused(copy_of_finished, command_line):
    """Someone moves parts made with other settings into the folder: they are refused by fingerprint, not read."""
    dag = build_dag(load_config(TINY))
    place = Workspace(copy_of_finished)
    right, other = (place.directory(dag.steps[name].recipe) for name in ("extract-downstream", "extract-pretrain"))
    for name in ("commits", "parts", "ledger"):
        shutil.rmtree(right / name)
        shutil.copytree(other / name, right / name)
    (right / "artifact.json").unlink()
    outcome = command_line.run_tiny(copy_of_finished)
    assert outcome.code == 1
    assert "extract/downstream-" in outcome.stderr
    assert "recipe" in outcome.stderr or "fingerprint" in outcome.stderr


def test_a_truncated_zarr_shard_is_noticed_and_only_its_part_remade(copy_of_finished, command_line, finished):
    dag = build_dag(load_config(TINY))
    folder = Workspace(copy_of_finished).directory(dag.steps["extract-downstream"].recipe)
    files = [path for path in (folder / "parts" / "000001").rglob("*") if path.is_file()]
    shard = max(files, key=lambda path: path.stat().st_size)
    untouched = {p: p.stat().st_mtime_ns for p in (folder / "parts" / "000000").rglob("*") if p.is_file()}
    os.truncate(shard, shard.stat().st_size // 2)
    state = command_line("why", "extract-downstream", TINY, "--workspace", copy_of_finished, "--json")
    assert "would be mended" in state.events[0]["verdict"]
    outcome = command_line.run_tiny(copy_of_finished)
    assert outcome.built() == ["extract-downstream"]
    assert {p: p.stat().st_mtime_ns for p in untouched} == untouched
    assert payloads(copy_of_finished) == payloads(finished)


def test_what_reads_a_damaged_workspace_says_so(copy_of_finished, command_line):
    """status shows the damage, search refuses the store, and a run names the file: none of them ends in a traceback."""
    dag, place = build_dag(load_config(TINY)), Workspace(copy_of_finished)

    def file(step, name):
        return place.directory(dag.steps[step].recipe) / name

    os.truncate(file("sample-downstream", "ledger/000000.parquet"), 1)
    os.truncate(file("embed-library", "embeddings.safetensors"), 100)
    status = command_line("status", TINY, "--workspace", copy_of_finished, "--json")
    assert {row["step"] for row in status.events if row["state"] == "damaged"} == {"sample-downstream", "embed-library"}
    search = command_line("search", "a circle", "--name", "library", "--workspace", copy_of_finished)
    assert search.code == 1
    assert "embeddings.safetensors has 100 bytes where its record says" in search.stderr
    assert command_line.run_tiny(copy_of_finished).built() == ["sample-downstream", "embed-library"]

    scores = file("evaluate-retrieval", "metrics.json")
    scores.write_bytes(b"x" * scores.stat().st_size)  # of the right size: only reading it tells
    told = command_line.run_tiny(copy_of_finished)
    assert told.code == 1
    assert "metrics.json: not JSON" in told.stderr
    assert "delete the file and run again" in told.stderr
    scores.unlink()
    assert command_line.run_tiny(copy_of_finished).built() == ["evaluate-retrieval"]


def test_full_disk(command_line, tmp_path, finished):
    """A file system of about one megabyte: the run stops with a clear error; with room again, it goes on from where it was."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1100k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root; storage's own tests cover a full disk without it")
    try:
        outcome = command_line.run_tiny(disk / "workspace")
        assert outcome.code == 1
        assert "No space left on device" in outcome.stderr
        assert "free space and run again" in outcome.stderr
        done = [
            e["step"]
            for e in command_line("status", TINY, "--workspace", disk / "workspace", "--json").events
            if e["state"] == "done"
        ]
        assert done == STEPS[: len(done)]
        assert done
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        resumed = command_line.run_tiny(disk / "workspace")
        assert resumed.code == 0, resumed.stderr
        assert set(done) <= set(resumed.cached())
        assert payloads(disk / "workspace") == payloads(finished)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
