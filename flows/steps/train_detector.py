"""Annotated boxes -> detector weights, where no trained Visual Genome weights are given."""

import json
from importlib.metadata import version
from typing import Any

import numpy as np

from flows.config import DetectorTraining, PipelineConfig
from flows.dag import Step, StepRun
from storage.artifact import Recipe
from storage.fingerprint import identity
from storage.manifest import Manifest

CODE_VERSION = 1


def step(config: PipelineConfig, corpora: Step, sample: Step) -> Step:
    """The step that trains the detector on one corpus."""
    section = config.detector.train
    settings = {
        "detector": identity(config.detector.model),
        "train": identity(section),
        "versions": {package: version(package) for package in ("torch", "torchvision", "detectron2")},
    }
    inputs = {"manifest": corpora.recipe.fingerprint, "frames": sample.recipe.fingerprint}
    recipe = Recipe("train-detector", section.corpus, settings, inputs, CODE_VERSION)

    def finish(run: StepRun) -> dict[str, Any]:
        return _train(run, config)

    return Step("train-detector", recipe, {"manifest": corpora.name, "frames": sample.name}, finish)


def _train(run: StepRun, config: PipelineConfig) -> dict[str, Any]:
    from detector.evaluation import evaluate_detector
    from detector.inference import RegionDetector
    from detector.training import train_detector
    from flows.devices import choose_device, use_threads
    from storage.checkpoint import CheckpointStore

    section, device = config.detector.train, choose_device(run.execution.device)
    use_threads(run.execution.threads)
    total = section.training.steps
    curve: list[dict[str, Any]] = []

    def on_step(step: int, losses: dict[str, float]) -> None:
        curve.append({"step": step, **{name: round(float(value), 6) for name, value in losses.items()}})
        run.progress.update(step, total, f"loss {losses['loss']:.3f}")

    checkpoints = CheckpointStore(run.directory / "checkpoints", keep=1)
    weights = train_detector(
        config.detector.model, section.training, _examples(run, section, section.split),
        checkpoints=checkpoints, on_step=on_step, device=device,
    )  # fmt: skip
    path = run.directory / "detector.safetensors"
    path.write_bytes(weights)
    detector = RegionDetector(config.detector.model, path, device=device)
    scores = evaluate_detector(detector, _examples(run, section, section.eval_split))
    _write_json(run.directory / "metrics.json", scores)
    _write_json(run.directory / "logs" / "curve.json", curve)
    return scores


def _examples(run: StepRun, section: DetectorTraining, split: str):
    from features.detector_examples import detector_examples
    from storage.frame_store import FrameStore

    corpora = run.inputs["manifest"]
    boxes = corpora.path / "boxes.parquet"
    if not boxes.is_file():
        raise ValueError(f"detector.train.corpus {section.corpus!r} carries no box annotations, so no detector can be trained on it")
    manifest = Manifest.read(corpora.file("manifest.parquet"))
    rows = manifest.rows_of_split(split)[: section.max_clips]
    if not len(rows):
        raise ValueError(f"corpus {section.corpus!r} has no clips in split {split!r}; it has {sorted(set(manifest.splits))}")
    return detector_examples(manifest, FrameStore(run.inputs["frames"].path), boxes, np.asarray(rows))


def _write_json(path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
