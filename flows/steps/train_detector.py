"""Annotated boxes -> detector weights, where no trained Visual Genome weights are given."""

import contextlib
import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from flows.config import PipelineConfig
from flows.dag import Step, StepRun
from storage.artifact import Recipe
from storage.fingerprint import identity
from storage.manifest import Manifest

CODE_VERSION = 1


def step(config: PipelineConfig, steps: dict[str, Step]) -> Step:
    """The step that trains the detector on the boxes of one corpus and evaluates it on another (or the same)."""
    section = config.detector.train
    eval_corpus = section.eval_corpus or section.corpus
    needs = {
        "manifest": f"corpora-{section.corpus}",
        "frames": f"sample-{section.corpus}",
        "eval_manifest": f"corpora-{eval_corpus}",
        "eval_frames": f"sample-{eval_corpus}",
    }
    settings = {
        "detector": identity(config.detector.model),
        "train": identity(section),
        "versions": {package: version(package) for package in ("torch", "torchvision", "detectron2")},
    }
    inputs = {role: steps[need].recipe.fingerprint for role, need in needs.items()}
    recipe = Recipe("train-detector", section.corpus, settings, inputs, CODE_VERSION)

    def finish(run: StepRun) -> dict[str, Any]:
        return _train(run, config)

    return Step("train-detector", recipe, needs, finish)


def _train(run: StepRun, config: PipelineConfig) -> dict[str, Any]:
    from detector.evaluation import evaluate_detector
    from detector.inference import RegionDetector
    from detector.training import StepReport, train_detector
    from flows.devices import choose_device, use_threads
    from storage.checkpoint import CheckpointStore
    from storage.durable import replace_file

    section = config.detector.train
    model = config.detector.model.model_copy(update={"device": choose_device(run.execution.device)})
    use_threads(section.num_threads)
    total = section.training.steps
    log = run.directory / "logs" / "losses.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)

    def on_step(report: StepReport) -> None:
        with log.open("a", encoding="utf-8") as stream:
            stream.write("\n" + json.dumps({"step": report.step, **report.losses}))  # a torn line spoils itself only
        run.progress.update(report.step, total, f"loss {report.losses['total']:.3f}")

    checkpoints = CheckpointStore(run.directory / "checkpoints", keep=1)
    examples = _examples(run, "", section.split, section.max_clips)
    weights = train_detector(model, section.training, examples, checkpoints=checkpoints, on_step=on_step)
    path = run.directory / "detector.safetensors"
    replace_file(path, weights, subject=f"weights of {run.recipe.name}")
    scores = evaluate_detector(
        RegionDetector(model, path), _examples(run, "eval_", section.eval_split, section.max_eval_clips)
    )
    scores = {name: None if math.isnan(score) else score for name, score in scores.items()}
    _write_json(run.directory / "metrics.json", scores)
    _write_json(run.directory / "curve.json", _curve(log))
    return scores


def _curve(log: Path) -> list[dict[str, float]]:
    """Losses of every step once, in order: a run that was killed repeats the steps after its last checkpoint, with equal losses."""
    rows = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(
            json.JSONDecodeError
        ):  # the line being written when the run was killed; its step is repeated
            row = json.loads(line)
            rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def _examples(run: StepRun, prefix: str, split: str, max_clips: int | None):
    from features.detector_examples import detector_examples
    from storage.frame_store import FrameStore

    corpora = run.inputs[f"{prefix}manifest"]
    boxes = corpora.path / "boxes.parquet"
    if not boxes.is_file():
        raise ValueError(
            f"corpus {corpora.name!r} carries no box annotations (boxes.parquet), so no detector can use it"
        )
    manifest = Manifest.read(corpora.file("manifest.parquet"))
    rows = manifest.rows_of_split(split)[:max_clips]
    if not len(rows):
        raise ValueError(
            f"corpus {corpora.name!r} has no clips in split {split!r}; it has {sorted(set(manifest.splits))}"
        )
    return detector_examples(manifest, FrameStore(run.inputs[f"{prefix}frames"].path), boxes, np.asarray(rows))


def _write_json(path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
