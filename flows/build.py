"""Building one step, without Prefect: ask storage whether it is done, otherwise do what is missing and commit."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow.compute as pc

from flows.config import ExecutionSection
from flows.dag import Dag, Step, StepRun
from flows.progress import Progress
from storage.artifact import Artifact, Workspace
from storage.errors import LeaseHeldError
from storage.ledger import LedgerRow, failed_rows
from storage.shards import PartSet, ShardPlan

# Seconds between two looks at work that another run holds.
POLL_SECONDS = 1.0


class StageFailedError(RuntimeError):
    """A stage that cannot be completed; the message says why and what to do."""


@dataclass(frozen=True)
class Built:
    """A step's artifact and how it came about."""

    artifact: Artifact
    cached: bool
    seconds: float


def start_step(dag: Dag, name: str, workspace: Workspace, execution: ExecutionSection, progress: Progress) -> StepRun:
    """Gather the step's finished inputs.

    Raises:
        StageFailedError: an input is not done.
    """
    step = dag.steps[name]
    inputs: dict[str, Artifact] = {}
    for role, need in step.needs.items():
        artifact = workspace.find(dag.steps[need].recipe)
        if artifact is None:
            raise StageFailedError(
                f"{name} needs {need}, which is not done: {workspace.state(dag.steps[need].recipe).detail}"
            )
        inputs[role] = artifact
    return StepRun(workspace, step.recipe, workspace.directory(step.recipe), inputs, execution, progress)


def lanes(step: Step, run: StepRun) -> list[range]:
    """Ranges of shards, one per Prefect task; a pure function of the plan."""
    assert step.shards is not None
    plan = ShardPlan(step.shards.num_rows(run), step.shards.rows_per_shard)
    size = run.execution.shards_per_lane
    return [range(first, min(first + size, plan.num_shards)) for first in range(0, plan.num_shards, size)]


def part_set(step: Step, run: StepRun) -> PartSet:
    """The step's parts."""
    assert step.shards is not None
    plan = ShardPlan(step.shards.num_rows(run), step.shards.rows_per_shard)
    return PartSet(run.directory, plan, step.recipe.fingerprint)


def work_through(
    parts: PartSet, shards: range, progress: Progress, make: Callable[[int, range, object], list[LedgerRow]]
) -> None:
    """Make every shard of a lane that nobody has committed; wait for those another live run is making.

    Args:
        parts: where parts and their commit records are.
        shards: the lane.
        make: (shard, manifest rows, staging folder) -> ledger rows; writes the part's files into the staging folder.
    """
    parts.sweep()
    while True:
        pending = parts.pending()
        waiting = [shard for shard in pending if shard in shards]
        if not waiting:
            return
        done = parts.plan.num_shards - len(pending)
        idle = True
        for shard in waiting:
            lease = parts.claim(shard)
            if lease is None:
                continue
            with lease:
                idle = False
                began = time.monotonic()
                staging = parts.staging(shard)
                rows = parts.plan.range_of(shard)
                ledger = make(shard, rows, staging)
                parts.commit(shard, staging, ledger=ledger, facts={"seconds": time.monotonic() - began})
            done += 1  # counted, not asked for again: looking at every commit record takes a second and more in a large store
            progress.update(done, parts.plan.num_shards)
        if idle:
            time.sleep(POLL_SECONDS)


def check_failures(run: StepRun, parts: PartSet) -> dict[str, int]:
    """Count failed clips by reason and refuse a stage with too many.

    Returns:
        Failed clips by reason code.
    """
    table = parts.ledger()
    failed = failed_rows(table)
    bad = table.filter(pc.not_equal(table["status"], "ok")).to_pylist()
    reasons = dict(sorted(Counter(row["reason"] for row in bad).items()))
    share = len(failed) / max(parts.plan.num_rows, 1)
    if share > run.execution.max_failed_fraction:
        raise StageFailedError(
            f"{run.recipe.stage} of {run.recipe.name}: {len(failed)} of {parts.plan.num_rows} clips failed ({reasons}), more than "
            f"execution.max_failed_fraction={run.execution.max_failed_fraction}; mend the media or raise it. "
            f"The first: {bad[0]['clip_id']}: {bad[0]['message']}"
        )
    return reasons


def finish(step: Step, run: StepRun) -> Artifact:
    """Make or seal the outputs under the artifact's lease and write the record; waits while another live run does it."""
    while True:
        try:
            with run.workspace.building(step.recipe) as build:
                done = run.workspace.find(step.recipe)
                if done is not None:
                    return done
                facts = step.finish(run)
                if (
                    step.shards
                ):  # the record times the sealing only; the work was done shard by shard, maybe in several runs
                    parts = part_set(step, run)
                    facts["shard_seconds"] = sum(parts.record(shard).facts["seconds"] for shard in parts.committed())
                return build.commit(facts=facts)
        except LeaseHeldError:
            time.sleep(POLL_SECONDS)


def build_step(dag: Dag, name: str, workspace: Workspace, execution: ExecutionSection, progress: Progress) -> Built:
    """Build one step in this process; a done one comes back at once."""
    began = time.monotonic()
    step = dag.steps[name]
    progress.start(name, None, "shards" if step.shards else "steps")
    done = workspace.find(step.recipe)
    if done is not None:
        progress.end("cached", time.monotonic() - began)
        return Built(done, cached=True, seconds=time.monotonic() - began)
    try:
        run = start_step(dag, name, workspace, execution, progress)
        if step.shards:
            for lane in lanes(step, run):
                step.shards.run_lane(run, lane)
        artifact = finish(step, run)
    except BaseException:
        progress.end("failed", time.monotonic() - began)
        raise
    progress.end("done", time.monotonic() - began)
    return Built(artifact, cached=False, seconds=time.monotonic() - began)


def work_seconds(artifact: Artifact) -> float:
    """Seconds of work in an artifact: its last build, and the making of its shards."""
    return artifact.seconds + artifact.facts.get("shard_seconds", 0.0)


def done_steps(dag: Dag, names: list[str], workspace: Workspace) -> Mapping[str, Artifact]:
    """Those of the named steps that are done."""
    found = {name: workspace.find(dag.steps[name].recipe) for name in names}
    return {name: artifact for name, artifact in found.items() if artifact is not None}
