"""Region store -> checkpoint: pre-training and fine-tuning of the dual encoder, in a supervised process of its own."""

import json
import os
import sys
from typing import Any

from flows.config import PipelineConfig, TrainSection
from flows.dag import Step, StepRun
from flows.supervise import run_supervised
from storage.artifact import Recipe
from storage.fingerprint import digest_file, identity

CODE_VERSION = 1


def step(stage: str, name: str, config: PipelineConfig, section: TrainSection, steps: dict[str, Step]) -> Step:
    """A training step.

    Args:
        stage: 'pretrain' or 'finetune'.
        name: name of its artifact.
        steps: the steps made so far, by name; manifests, regions and the initial model are looked up here.
    """
    init = section.init if stage == "finetune" else None
    corpora = [*section.corpora, *([section.val_corpus] if section.val_corpus else [])]
    needs = {f"manifest:{c}": f"corpora-{c}" for c in corpora} | {f"regions:{c}": f"extract-{c}" for c in corpora}
    if init:
        needs["init"] = init
    model = {"model": identity(config.sized_model())} if init is None else {}
    settings = {**model, "train": identity(section)}
    inputs = {role: steps[need].recipe.fingerprint for role, need in needs.items()}
    if init is None:  # weights that start the encoders are identity by what they hold, not by where they lie
        inputs |= {f"file:{field}": digest_file(path) for field, path in config.model.outside_files().items()}
    recipe = Recipe(stage, name, settings, inputs, CODE_VERSION)
    step_name = "pretrain" if stage == "pretrain" else f"finetune-{name}"

    def finish(run: StepRun) -> dict[str, Any]:
        return _train(run, config, section)

    return Step(step_name, recipe, needs, finish)


def _train(run: StepRun, config: PipelineConfig, section: TrainSection) -> dict[str, Any]:
    spec = _spec(run, config, section)
    path = run.directory / "logs" / "spec.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(spec, indent=1, sort_keys=True), encoding="utf-8")

    def on_event(event: dict) -> None:
        if event.get("event") == "step":
            run.progress.update(event["step"], event["total_steps"], f"loss {event['loss']:.3f}")

    run_supervised(
        [sys.executable, "-m", "vlp.train_main", str(path)],
        log=run.directory / "logs" / "train.log",
        on_event=on_event,
        stall_seconds=run.execution.stall_seconds,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    summary = json.loads((run.directory / "summary.json").read_text(encoding="utf-8"))
    return {key: value for key, value in summary.items() if isinstance(value, int | float | str)}


def _spec(run: StepRun, config: PipelineConfig, section: TrainSection) -> dict[str, Any]:
    def source(corpus: str, split: str) -> dict[str, str]:
        return {
            "name": corpus,
            "manifest": str(run.inputs[f"manifest:{corpus}"].file("manifest.parquet")),
            "regions": str(run.inputs[f"regions:{corpus}"].path),
            "split": split,
        }

    init = run.inputs.get("init")
    return {
        "model": None if init else config.sized_model().model_dump(mode="json"),
        "init_model": str(init.path / "model") if init else None,
        "train": section.train.model_dump(mode="json"),
        "sources": [source(corpus, section.split) for corpus in section.corpora],
        "val": source(section.val_corpus, section.val_split) if section.val_corpus else None,
        "output": str(run.directory),
        "device": run.execution.device,
    }
