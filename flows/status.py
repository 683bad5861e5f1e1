"""What is done, what is not and why: answers that read storage alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from flows.build import work_seconds
from flows.config import load_config
from flows.dag import Dag, Step
from flows.graph import build_dag
from storage.artifact import Workspace
from storage.errors import DamagedStoreError
from storage.ledger import read_ledger


def step_states(source: str, workspace: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """One row a step: state, fingerprint, seconds of the last build, failed clips by reason."""
    dag, place = build_dag(load_config(source, overrides)), Workspace(workspace)
    return [_state(place, step) for step in dag.steps.values()]


def _state(place: Workspace, step: Step) -> dict[str, Any]:
    state, artifact = place.state(step.recipe), place.find(step.recipe)
    detail = "" if str(state.status) in ("done", "absent") else state.detail
    try:
        failed = failures(place.directory(step.recipe))
    except DamagedStoreError as error:  # status is what one looks at when something is damaged: it must not stop there
        failed, detail = {}, detail or str(error)
    return {
        "step": step.name,
        "state": str(state.status),
        "fingerprint": step.recipe.fingerprint,
        "seconds": work_seconds(artifact) if artifact else None,
        "failed": failed,
        "detail": detail,
    }


def failures(directory: Path) -> dict[str, int]:
    """Failed or left-out clips by reason code, from the ledgers of one artifact."""
    return dict(sorted(Counter(row["reason"] for row in left_out_clips(directory)).items()))


def left_out_clips(directory: Path) -> list[dict[str, Any]]:
    """Ledger rows of one artifact's clips that failed or were left out."""
    paths = [*sorted(directory.glob("ledger.parquet")), *sorted(directory.glob("ledger/*.parquet"))]
    tables = [read_ledger(path) for path in paths]
    return [row for table in tables for row in table.filter(pc.not_equal(table["status"], "ok")).to_pylist()]


def explain(word: str, source: str, workspace: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """For each step meant by ``word``: would it run, what differs from the newest artifact of its name, what a rerun costs."""
    dag, place = build_dag(load_config(source, overrides)), Workspace(workspace)
    return [_explain(dag, place, dag.steps[name]) for name in dag.resolve(word)]


def _explain(dag: Dag, place: Workspace, step: Step) -> dict[str, Any]:
    state = place.state(step.recipe)
    differences = [] if str(state.status) == "done" else place.why(step.recipe)
    verdicts = {
        "done": "done, it would not run",
        "partial": f"would go on: {state.detail}",
        "damaged": f"would be mended: {state.detail}",
        "absent": "would run",
    }
    waiting = [need for need in step.needs.values() if place.find(dag.steps[need].recipe) is None]
    verdict = verdicts[str(state.status)] + (f" (after {', '.join(waiting)})" if waiting else "")
    return {
        "step": step.name,
        "fingerprint": step.recipe.fingerprint,
        "verdict": verdict,
        "differences": [{"kind": d.kind, "field": d.field, "old": d.old, "new": d.new} for d in differences],
        "cost": "" if str(state.status) == "done" else _cost(place, step),
    }


def _cost(place: Workspace, step: Step) -> str:
    """Seconds the newest artifact of the same stage and name took, the best guess there is."""
    earlier = [a for a in place.artifacts(step.stage) if a.name == step.recipe.name]
    if not earlier:
        return "never built here, so its cost is not known"
    last = max(earlier, key=lambda artifact: artifact.record["finished"])
    return f"about {work_seconds(last):.0f} s, as last time"
