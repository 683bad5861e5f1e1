"""Real media through the real stages: every odd file, real frames with real captions, from raw files to metrics."""

import csv
import json

import pytest

from storage.artifact import Workspace
from storage.frame_store import FrameStore
from storage.ledger import read_ledger
from storage.manifest import Manifest


def artifact(workspace, stage, name):
    """The one artifact of a stage and name."""
    return next(a for a in Workspace(workspace).artifacts(stage) if a.name == name)


def test_every_odd_file_gives_frames_or_a_reason(test_data, command_line, tmp_path):
    corpus = json.dumps({"kind": "folder", "media_root": str(test_data / "data" / "real_clips" / "odd")})
    arguments = ("--set", f"corpora.odd.corpus={corpus}", "--set", "execution.max_failed_fraction=1")
    outcome = command_line.run_tiny(tmp_path, *arguments, "--until", "sample-odd")
    assert outcome.code == 0, outcome.stderr
    sampled = artifact(tmp_path, "sample", "odd")
    manifest = Manifest.read(artifact(tmp_path, "corpora", "odd").file("manifest.parquet"))
    files = sorted(p.name for p in (test_data / "data" / "real_clips" / "odd").iterdir())
    assert sorted(manifest.clip(row).media for row in range(len(manifest))) == files
    ledger = read_ledger(sampled.path / "ledger" / "000000.parquet").to_pylist()
    frames = FrameStore(sampled.path)
    for row in ledger:
        if row["status"] == "ok":
            assert frames.read(row["row"]).jpegs
        else:
            assert row["reason"]
            assert row["message"]
    assert [row["reason"] for row in ledger if row["status"] != "ok"], "decord_corrupted.mp4 must have a reason"


@pytest.mark.slow
def test_real_clips_from_raw_files_to_metrics(test_data, copy_of_finished, command_line, tmp_path):
    """The tiny model knows nothing of real clips: what is tested is that every clip goes through or has its reason."""
    source = test_data / "data" / "real_clips"
    with (source / "captions.csv").open(newline="", encoding="utf-8") as stream:
        rows = [(row["file"], row["caption"]) for row in csv.DictReader(stream)]
    table = tmp_path / "captions.jsonl"
    table.write_text("".join(json.dumps({"file": f, "caption": c, "split": "test"}) + "\n" for f, c in rows))
    corpus = json.dumps({"kind": "table", "annotations": str(table), "media_root": str(source)})
    section = json.dumps(
        {"corpus": "real", "model": "finetune-retrieval", "retrieval": {"data": {"num_frames": 4, "max_regions": 6}}}
    )
    arguments = (
        "--set",
        f"corpora.real.corpus={corpus}",
        "--set",
        "corpora.real.sampling.num_frames=4",
        "--set",
        f"evaluate.real={section}",
    )
    outcome = command_line.run_tiny(copy_of_finished, *arguments, "--until", "evaluate-real")
    assert outcome.code == 0, outcome.stderr
    assert outcome.built() == ["corpora-real", "sample-real", "extract-real", "evaluate-real"]
    metrics = json.loads(artifact(copy_of_finished, "evaluate", "real").file("metrics.json").read_text())
    captioned = {file for file, caption in rows if caption.strip()}
    assert metrics["num_clips"] + metrics["num_excluded"] == len(captioned)
    assert metrics["num_clips"] >= 20


@pytest.mark.slow
def test_msrvtt_frames_from_raw_files_to_metrics(test_data, copy_of_finished, command_line):
    """The test split alone (100 clips): the whole of it is a run of minutes, its figures stand in docs/results.md."""
    corpus = json.dumps(
        {"kind": "msrvtt_frames", "root": str(test_data / "data" / "msrvtt_frames"), "splits": ["test"]}
    )
    section = json.dumps(
        {"corpus": "msrvtt", "model": "finetune-retrieval", "retrieval": {"data": {"num_frames": 4, "max_regions": 6}}}
    )
    arguments = (
        "--set",
        f"corpora.msrvtt.corpus={corpus}",
        "--set",
        "corpora.msrvtt.sampling.num_frames=4",
        "--set",
        f"evaluate.msrvtt={section}",
    )
    outcome = command_line.run_tiny(copy_of_finished, *arguments, "--until", "evaluate-msrvtt")
    assert outcome.code == 0, outcome.stderr
    metrics = json.loads(artifact(copy_of_finished, "evaluate", "msrvtt").file("metrics.json").read_text())
    assert metrics["num_clips"] == 100
    assert metrics["num_captions"] >= 100
