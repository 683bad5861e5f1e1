"""Numbers of the report: retrieval scores beside chance, training losses, detector scores, and the curves of both."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flows.config import PipelineConfig
from flows.report_examples import Allowance
from storage.artifact import Artifact
from storage.manifest import Manifest
from vlp.pictures import draw_curves
from vlp.run_log import read_metrics

METRICS = ("R@1", "R@5", "R@10", "MedR", "MeanR")
LOSSES = ("total", "global", "local")
DIRECTIONS = {"t2v": "text → video", "v2t": "video → text"}
TIES = {
    "mean": "Ties: equal similarities count with their mean rank, so a model that scores everything alike gets chance.",
    "official": "Ties: as the released code counts them, won from captions to clips; compare with its numbers only.",
}
CURVE_POINTS = 300  # a curve is about 400 px wide; more points only make the page larger
CURVE_SIZE_PX = (520, 280)
MAX_CLIPS = 50


def gather_evaluations(config: PipelineConfig, inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Scores of every evaluation in both directions, in the order of the configuration."""
    found = []
    for name, section in config.evaluate.items():
        metrics = json.loads(inputs[f"evaluate-{name}"].file("metrics.json").read_text(encoding="utf-8"))
        found.append(
            {
                "name": name,
                "corpus": section.corpus,
                "split": section.split,
                "model": section.model,
                "ties": TIES.get(metrics["ties"], f"Ties: {metrics['ties']}."),
                "excluded": _excluded(metrics["excluded"]),
                "directions": [_direction(key, metrics) for key in DIRECTIONS],
            }
        )
    return found
