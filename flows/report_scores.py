"""Numbers of the report: retrieval scores beside chance, training losses, detector scores, and the curves of both."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.config import PipelineConfig
from flows.report_pictures import Allowance
from storage.artifact import Artifact
from vlp.pictures import draw_curves
from vlp.run_log import read_metrics

METRICS = ("R@1", "R@5", "R@10", "MedR", "MeanR")
LOSSES = {"total": "loss", "global": "global", "local": "local"}  # as shown: as logged
DIRECTIONS = {"t2v": "text → video", "v2t": "video → text"}
TIES = {
    "mean": "equal similarities count with their mean rank, so a model that scores everything alike gets chance",
    "official": "ties counted as in the released code (won from captions to clips), to compare with its numbers only",
}
MAX_CLIPS = 50  # clip ids listed per reason
CURVE_POINTS = 300  # a curve is about 500 px wide; more points only make the page larger
CURVE_SIZE_PX = (520, 280)


def gather_evaluations(config: PipelineConfig, inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Scores of every evaluation in both directions, in the order of the configuration."""
    found = []
    for name, section in config.evaluate.items():
        artifact = inputs[f"evaluate-{name}"]
        metrics = json.loads(artifact.file("metrics.json").read_text(encoding="utf-8"))
        alignment = f"region-word alignment at attention temperature {metrics['attention_temperature']:g}"
        found.append(
            {
                "name": name,
                "corpus": section.corpus,
                "split": section.split,
                "model": section.model,
                "method": alignment if metrics["use_local"] else "global similarity only, no region-word alignment",
                "ties": TIES[metrics["ties"]],
                "excluded": _excluded(metrics["excluded_clips"]),
                "directions": [_direction(key, metrics, artifact) for key in DIRECTIONS],
            }
        )
    return found


def _direction(key: str, metrics: Mapping[str, Any], artifact: Artifact) -> dict[str, Any]:
    num_candidates = metrics["num_clips"] if key == "t2v" else metrics["num_captions"]
    table = pq.read_table(artifact.file("rankings.parquet"), columns=["direction", "correct_ids"])
    right = pc.list_value_length(table.filter(pc.equal(table["direction"], key))["correct_ids"])
    return {
        "key": key,
        "label": DIRECTIONS[key],
        "metrics": {name: metrics[key][name] for name in METRICS},
        "chance": chance_level(num_candidates, right.to_pylist()),
        "num_queries": metrics[key]["num_queries"],
        "num_candidates": num_candidates,
    }


def chance_level(num_candidates: int, num_right: Iterable[int]) -> dict[str, float]:
    """Expected scores when the candidates are put in random order.

    Args:
        num_candidates: N candidates of every query.
        num_right: right answers of each query, at least 1; the best placed one counts.
    Returns:
        METRICS: of one query with m right answers, P(rank > k) = C(N - m, k) / C(N, k) and E[rank] = (N + 1) / (m + 1).
        MedR is the smallest k that half the queries are expected to reach (the mean of k and k + 1 if exactly half do).
    """
    counts, queries = np.unique(np.fromiter(num_right, dtype=np.int64), return_counts=True)
    weights = queries / queries.sum()
    ranks = np.arange(num_candidates)
    missed = np.zeros(num_candidates + 1)  # missed[k] = P(rank > k) of a query drawn at random
    for right, weight in zip(counts, weights):
        stays = np.clip((num_candidates - right - ranks) / (num_candidates - ranks), 0, None)
        missed += weight * np.concatenate([[1.0], np.cumprod(stays)])
    scores = {f"R@{k}": 100 * (1 - float(missed[min(k, num_candidates)])) for k in (1, 5, 10)}
    low, high = (int(np.argmax(missed <= 0.5 + slack)) for slack in (1e-12, -1e-12))
    mean = float(sum(w * (num_candidates + 1) / (m + 1) for m, w in zip(counts, weights)))
    return {**scores, "MedR": (low + high) / 2, "MeanR": mean}


def _excluded(reason_of_clip: Mapping[str, str]) -> list[dict[str, Any]]:
    clips: dict[str, list[str]] = {}
    for clip_id, reason in reason_of_clip.items():
        clips.setdefault(reason, []).append(clip_id)
    return [{"reason": r, "count": len(ids), "clip_ids": ids[:MAX_CLIPS]} for r, ids in sorted(clips.items())]


def training_steps(config: PipelineConfig) -> list[str]:
    """Names of the steps that train the dual encoder, in the order of the configuration."""
    return [*(["pretrain"] if config.pretrain else []), *(f"finetune-{name}" for name in config.finetune)]


def gather_trainings(config: PipelineConfig, inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """What every training of the dual encoder was and where its losses ended."""
    found = []
    for step in training_steps(config):
        summary = json.loads(inputs[step].file("summary.json").read_text(encoding="utf-8"))
        found.append(
            {
                "step": step,
                "clips": summary["clips"],
                "num_steps": summary["steps"],
                "num_epochs": summary["epochs"],
                "num_parameters": summary["num_parameters"],
                "losses": {shown: summary[logged] for shown, logged in LOSSES.items()},
                "first_loss": summary["first_loss"],
                "best_val": summary["best_val"],
            }
        )
    return found


def describe_detector(config: PipelineConfig, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Which detector made the regions, how good it is, and what it is not."""
    model, trained = config.detector.model, config.detector.train
    what = (
        f"Preset {model.preset}: Faster R-CNN with {model.num_classes} classes and {model.num_attributes} attributes, "
        f"features of {model.feature_dim} numbers, up to {model.max_regions} regions a frame."
    )
    about = {"caveat": _caveat(config), "tested": "", "scores": [], "metrics": {}}
    if trained is None:
        digest = next(
            (artifact.inputs["weights"] for artifact in inputs.values() if "weights" in artifact.inputs), "unknown"
        )
        return {
            **about,
            "text": f"{what} Its weights came from a file ({digest}); this run neither trained nor tested it.",
        }
    metrics = json.loads(inputs["train-detector"].file("metrics.json").read_text(encoding="utf-8"))
    text = (
        f"{what} Trained in this run from random weights for {trained.training.steps:,} steps of {trained.training.batch_size} frames "
        f"on the {trained.split} split of “{trained.corpus}”. AP is COCO's box average precision over IoU 0.50 to 0.95, AP50 and AP75 "
        "that at one IoU; attribute accuracy is the share of matched regions whose attribute is one of their object's."
    )
    names = {"attribute_accuracy": "Attribute accuracy"}
    scores = [
        {"name": names.get(name, name), "value": "nothing to score" if score is None else percent(100 * score)}
        for name, score in metrics.items()
    ]
    tested = f"{trained.eval_split} split of “{trained.eval_corpus or trained.corpus}”"
    return {**about, "text": text, "tested": tested, "scores": scores, "metrics": metrics}


def _caveat(config: PipelineConfig) -> str:
    """What the numbers cannot be taken for; "" for the paper's detector on real clips."""
    drawn = [name for name, section in config.corpora.items() if section.corpus.kind == "demo"]
    parts = []
    if config.detector.model.preset != "vg-r101-c4":
        parts.append(
            f"The detector is the small {config.detector.model.preset!r} network, not the ResNet-101 Faster R-CNN of the paper trained on "
            "Visual Genome (1600 classes, 400 attributes)."
        )
    if drawn:
        parts.append(
            f"The clips of {' and '.join(drawn)} are drawn by a program: moving shapes with captions made from the same facts."
        )
    if parts:
        parts.append(
            "These numbers show that the pipeline works from end to end; they do not compare with published ones."
        )
    return " ".join(parts)


def gather_curves(config: PipelineConfig, inputs: Mapping[str, Artifact], allowance: Allowance) -> list[dict[str, Any]]:
    """Loss curves of the detector and of every training, and validation recall where there was validation."""
    curves = []
    if config.detector.train:
        rows = _detector_log(inputs["train-detector"])
        names = sorted(rows[0].keys() - {"step", "total"}) if rows else []
        curves.append(_curve("train-detector", "loss", rows, ["total", *names], allowance))
    for step in training_steps(config):
        rows = read_metrics(inputs[step].file("metrics.jsonl"))
        losses = [{"step": row["step"], **{s: row[k] for s, k in LOSSES.items()}} for row in rows if "loss" in row]
        curves.append(_curve(step, "loss", losses, list(LOSSES), allowance))
        recalls = [
            {"step": row["step"], **{f"{label} R@1 (%)": row["val"][key]["R@1"] for key, label in DIRECTIONS.items()}}
            for row in rows
            if "val" in row
        ]
        if recalls:
            names = [name for name in recalls[0] if name != "step"]
            curves.append(_curve(step, "validation R@1", recalls, names, allowance))
    return [curve for curve in curves if curve]


def _detector_log(artifact: Artifact) -> list[dict[str, float]]:
    """The detector's losses by step."""
    return json.loads(artifact.file("curve.json").read_text(encoding="utf-8"))


def _curve(
    step: str, what: str, rows: Sequence[Mapping[str, float]], names: Sequence[str], allowance: Allowance
) -> dict[str, Any] | None:
    if not rows:
        return None
    title = f"{step}: {what}"
    image = allowance.data_uri(
        draw_curves(thinned(rows, names), names, title=title, size_px=CURVE_SIZE_PX), "image/svg+xml"
    )
    ends = ", ".join(f"{name} from {rows[0][name]:.3g} to {rows[-1][name]:.3g}" for name in names)
    mean = f"; each point the mean of {math.ceil(len(rows) / CURVE_POINTS)} steps" if len(rows) > CURVE_POINTS else ""
    return {
        "image": image,
        "title": title,
        "alt": f"{title} over {rows[-1]['step']} steps: {ends}",
        "caption": f"{ends}{mean}.",
    }


def thinned(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[dict[str, float]]:
    """At most CURVE_POINTS rows: means over neighbouring ones, so that no loss is hidden between two points."""
    size = math.ceil(len(rows) / CURVE_POINTS)
    chunks = (rows[start : start + size] for start in range(0, len(rows), size))
    return [{name: float(np.mean([row[name] for row in chunk])) for name in ("step", *names)} for chunk in chunks]


def percent(value: float) -> str:
    """Such as "41.5 %", with a space that does not break."""
    return f"{value:.1f}\u00a0%"
