"""Region-word alignment against the same model without it (``Base``) on the frozen demo test (``make bench-alignment``).

Both arms are trained by the shipped demo configuration from the same region stores, for each seed; only
``model.alignment.use_local`` differs. Reported are R@1/5/10 per seed and arm, and the paired difference with two 95 %
intervals: over seeds (Student's t, so wide with three) and over queries (bootstrap of the per-query difference averaged
over seeds, 10,000 draws, seed 0).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.frame import report
from flows.config import load_config
from flows.graph import build_dag
from storage.artifact import Workspace

SEEDS = (0, 1, 2)
ARMS = {"RWA": True, "Base": False}
# Two-sided 97.5 % points of Student's t with n - 1 degrees of freedom.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


def overrides(arm: str, seed: int) -> list[str]:
    """What makes this run differ from ``make demo``; nothing does for RWA with seed 0."""
    changed = [f"pretrain.train.seed={seed}", f"finetune.retrieval.train.seed={seed}"]
    return [*changed, f"model.alignment.use_local={str(ARMS[arm]).lower()}"]


def run(workspace: Path, arm: str, seed: int, more: list[str]) -> tuple[dict, np.ndarray]:
    """Train and evaluate one arm with one seed; what is done already is not done again.

    Returns:
        metrics.json of the fine-tuned evaluation, and the text-to-video rank of every test query.
    """
    changed = [*more, *overrides(arm, seed)]
    flags = [flag for override in changed for flag in ("--set", override)]
    command = [sys.executable, "-m", "flows.cli", "run", "demo", "--workspace", str(workspace), "--no-orchestrator"]
    subprocess.run([*command, "--until", "evaluate", *flags], check=True)
    step = build_dag(load_config("demo", changed)).steps["evaluate-retrieval"]
    artifact = Workspace(workspace).find(step.recipe)
    table = pq.read_table(artifact.file("rankings.parquet")).to_pylist()
    ranks = sorted((row["query_id"], row["rank"]) for row in table if row["direction"] == "t2v")
    return json.loads(artifact.file("metrics.json").read_text()), np.array([rank for _, rank in ranks])


def interval_over_seeds(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of paired differences, Student's t."""
    half = STUDENT[len(differences)] * differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean() - half), float(differences.mean() + half)


def interval_over_queries(differences: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over queries of (queries,) differences."""
    draws = np.random.default_rng(0).integers(0, len(differences), (10_000, len(differences)))
    low, high = np.percentile(differences[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Run both arms with all seeds and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path("runs/demo"))
    parser.add_argument("--set", action="append", default=[], help="override for both arms")
    options = parser.parse_args()
    rows, recall, hits = [], {arm: [] for arm in ARMS}, {arm: [] for arm in ARMS}
    for seed in SEEDS:
        for arm in ARMS:
            metrics, ranks = run(options.workspace, arm, seed, options.set)
            text, video = metrics["t2v"], metrics["v2t"]
            rows.append(
                [
                    arm,
                    seed,
                    *(text[k] for k in ("R@1", "R@5", "R@10", "MedR")),
                    *(video[k] for k in ("R@1", "R@5", "R@10")),
                ]
            )
            recall[arm].append(text["R@1"])
            hits[arm].append(ranks <= 1)
    by_seed = np.subtract(recall["RWA"], recall["Base"])
    by_query = 100 * (np.mean(hits["RWA"], 0) - np.mean(hits["Base"], 0))
    figures = {
        "t2v_R1": recall,
        "difference_R1": float(by_seed.mean()),
        "interval_over_seeds": interval_over_seeds(by_seed),
        "interval_over_queries": interval_over_queries(by_query),
        "rows": rows,
    }
    columns = ("arm", "seed", "t2v R@1", "R@5", "R@10", "MedR", "v2t R@1", "R@5", "R@10")
    report("alignment", "demo test, 200 clips, %", columns, rows, figures)
    print(
        f"RWA - Base, text to video R@1: {figures['difference_R1']:.2f} points; 95 % over seeds {figures['interval_over_seeds']}, "
        f"over queries {figures['interval_over_queries']}"
    )


if __name__ == "__main__":
    main()
