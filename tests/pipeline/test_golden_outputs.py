"""Forgetting to bump a stage's CODE_VERSION is caught here: the tiny run's outputs are compared with those recorded for that version.

Bytes are not recorded: they depend on library and processor. Recorded are numbers that a change of the stage's behaviour moves
and a change of processor does not, at a tolerance of 2 % (frames of another decoder build differ by a grey level, training by
rounding).
After an intended change: bump the stage's CODE_VERSION and run ``REGIONVLP_RECORD=1 pytest tests/pipeline/test_golden_outputs.py``.
"""

import importlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.config import load_config
from flows.graph import build_dag
from storage.artifact import Workspace
from storage.frame_store import FrameStore
from storage.manifest import Manifest
from storage.region_store import RegionStore

HERE = Path(__file__).parent
RECORD = HERE / "golden_outputs.json"
STAGES = ("corpora", "sample", "train_detector", "extract", "train", "evaluate")


def summary(workspace: Path) -> dict[str, list[float]]:
    """A few numbers of every stage's output."""
    dag, place = build_dag(load_config(HERE / "tiny.yaml")), Workspace(workspace)
    found = {name: place.find(step.recipe) for name, step in dag.steps.items()}
    manifest = Manifest.read(found["corpora-downstream"].file("manifest.parquet"))
    captions = [caption for row in range(len(manifest)) for caption in manifest.clip(row).captions]
    words = [len(caption.split()) for caption in captions]
    frames = [
        np.asarray(Image.open(io.BytesIO(row.jpegs[0]))) for row in FrameStore(found["sample-downstream"].path).rows()
    ]
    regions = RegionStore(found["extract-downstream"].path).read_all()
    losses = [json.loads(line) for line in found["pretrain"].file("metrics.jsonl").read_text().splitlines()]
    scores = json.loads(found["evaluate-retrieval"].file("metrics.json").read_text())
    curve = json.loads(found["train-detector"].file("curve.json").read_text())
    return {
        "corpora": [len(manifest), sum(words), sum(len(caption) for caption in captions)],
        "sample": [float(np.mean(frames)), float(np.std(frames))],
        "train_detector": [curve[0]["total"], curve[1]["total"]],
        "extract": [float(regions.num_regions.sum()), float(np.nanmean(regions.features.astype(np.float32)))],
        "train": [row["loss"] for row in losses if "loss" in row][:2],
        "evaluate": [scores["num_captions"], scores["num_clips"], scores["num_frames"]],
    }  # fmt: skip


def versions() -> dict[str, int]:
    """CODE_VERSION of every stage."""
    return {stage: importlib.import_module(f"flows.steps.{stage}").CODE_VERSION for stage in STAGES}


def test_outputs_are_those_of_the_code_versions(finished):
    now = {
        stage: {"code_version": versions()[stage], "numbers": numbers} for stage, numbers in summary(finished).items()
    }
    if os.environ.get("REGIONVLP_RECORD"):
        RECORD.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    for stage in STAGES:
        assert now[stage]["code_version"] == recorded[stage]["code_version"], (
            f"{stage}: CODE_VERSION changed, record anew"
        )
        assert now[stage]["numbers"] == pytest.approx(recorded[stage]["numbers"], rel=0.02), (
            f"the output of {stage} changed at an unchanged CODE_VERSION: bump it in flows/steps/{stage}.py and record anew"
        )
