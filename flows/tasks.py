"""Prefect tasks around the plain functions of ``flows.build``: lanes, the finishing task, progress and table artifacts."""

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from flows.build import finish, lanes, start_step
from flows.config import PipelineConfig
from flows.dag import Dag, StepRun
from flows.graph import build_dag
from flows.progress import Progress, SeveralProgress, SilentProgress
from flows.supervise import ProcessFailedError
from storage.artifact import Workspace
from storage.errors import DiskFullError

# Exit codes of vlp.train_main that a repetition would end with too: an invalid specification, a loss that is not finite.
HOPELESS_CODES = (2, 65)
# Seconds between two progress updates sent to the server: each is a REST call.
ARTIFACT_SECONDS = 5.0

_SESSION: ContextVar["Session | None"] = ContextVar("regionvlp_session", default=None)
_LISTENER: ContextVar[Progress | None] = ContextVar("regionvlp_listener", default=None)


@dataclass(frozen=True)
class Session:
    """One run of the pipeline in this process: its DAG, built once, and the steps selected."""

    config: PipelineConfig
    dag: Dag
    workspace: Workspace
    selected: tuple[str, ...]

    @classmethod
    @contextmanager
    def open(cls, config: PipelineConfig, workspace: str, **selection: str | None):
        """Build the DAG, check the selection, and make it what the stage flows below run in."""
        dag, place = build_dag(config), Workspace(workspace)
        selected = dag.select(**selection)
        dag.require_inputs(selected, place)
        session = cls(config, dag, place, tuple(selected))
        token = _SESSION.set(session)
        try:
            yield session
        finally:
            _SESSION.reset(token)

    @classmethod
    @contextmanager
    def current(cls, config: PipelineConfig, workspace: str, name: str):
        """The running pipeline's session, or one for a stage flow that was started alone."""
        session = _SESSION.get()
        if session is not None and session.config == config:
            yield session
            return
        with cls.open(config, workspace, only=name) as session:
            yield session

    def finetunings(self) -> list[str]:
        """Names of the fine-tunings, each after the one it starts from."""
        return [step.recipe.name for step in self.dag.steps.values() if step.stage == "finetune"]

    def folders(self) -> dict[str, str]:
        """Folder of each selected step's artifact, relative to the workspace."""
        return {
            name: str(self.workspace.directory(self.dag.steps[name].recipe).relative_to(self.workspace.root))
            for name in self.selected
        }


@contextmanager
def listening(progress: Progress):
    """Have every step run inside the block tell its progress to ``progress`` too."""
    token = _LISTENER.set(progress)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def run_step(config: PipelineConfig, workspace: str, name: str) -> None:
    """Run one step as Prefect tasks: its lanes, then the task that seals it. Steps that are not selected are passed over."""
    with Session.current(config, workspace, name) as session:
        if name not in session.selected:
            return
        step, execution = session.dag.steps[name], config.execution
        options = {
            "retries": execution.retries,
            "retry_delay_seconds": execution.retry_delay_seconds,
            "retry_condition_fn": _worth_retrying,
        }
        with _Clock(name, sharded=step.shards is not None) as clock:
            if session.workspace.find(step.recipe) is not None:
                clock.outcome = "cached"
                _finish.with_options(name=name)(name, return_state=True)
                return
            if step.shards:
                run = start_step(session.dag, name, session.workspace, execution, SilentProgress())
                for number, shards in enumerate(lanes(step, run)):
                    _lane.with_options(name=f"{name}-lane-{number}", **options)(name, shards.start, shards.stop)
            _finish.with_options(name=name, **options)(name, return_state=True).result()


# Tasks take names and numbers only and find the rest in the session: Prefect walks through whatever it is handed, looking for futures.


@task(cache_policy=NO_CACHE, persist_result=False)
def _lane(name: str, first: int, stop: int) -> None:
    session = _SESSION.get()
    session.dag.steps[name].shards.run_lane(_running(session, name), range(first, stop))


@task(cache_policy=NO_CACHE, persist_result=False)
def _finish(name: str) -> State | None:
    session = _SESSION.get()
    step = session.dag.steps[name]
    done = session.workspace.find(step.recipe)
    if done is not None:
        return Completed(name="Cached", message=f"{name} is done: {done.path.name}")
    artifact = finish(step, _running(session, name))
    table = _table(artifact.facts)
    if table:
        create_table_artifact(table=table, key=name, description=f"{name} {artifact.fingerprint[:8]}")
    return None


def _running(session: Session, name: str) -> StepRun:
    listener = _LISTENER.get() or SilentProgress()
    progress = SeveralProgress([listener, PrefectProgress(name)])
    return start_step(session.dag, name, session.workspace, session.config.execution, progress)


def _worth_retrying(_task: Any, _run: Any, state: State) -> bool:
    """Retry what may pass next time (an I/O error, a killed training process), not wrong input."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, ProcessFailedError):
        return error.code not in HOPELESS_CODES
    return isinstance(error, OSError) and not isinstance(error, DiskFullError | FileNotFoundError)


def _table(facts: dict[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += _table(value, f"{prefix}{key}.")
        elif isinstance(value, int | float | str):
            rows.append({"what": prefix + key, "value": value})
    return rows


class _Clock:
    """Tells the listener that a step began and how it ended."""

    def __init__(self, name: str, *, sharded: bool) -> None:
        self._listener = _LISTENER.get() or SilentProgress()
        self._name, self._unit, self.outcome = name, "shards" if sharded else "steps", "done"

    def __enter__(self) -> "_Clock":
        self._began = time.monotonic()
        self._listener.start(self._name, None, self._unit)
        return self

    def __exit__(self, kind, *_: object) -> None:
        self._listener.end("failed" if kind else self.outcome, time.monotonic() - self._began)


class PrefectProgress(SilentProgress):
    """A progress artifact in Prefect's UI, updated at most every few seconds."""

    def __init__(self, step: str) -> None:
        self._step, self._id, self._sent = step, None, 0.0

    def update(self, done: int, total: int, note: str = "") -> None:
        """Send the share done."""
        if time.monotonic() - self._sent < ARTIFACT_SECONDS and done < total:
            return
        self._sent = time.monotonic()
        share = 100.0 * done / max(total, 1)
        if self._id is None:
            self._id = create_progress_artifact(progress=share, key=f"{self._step}-progress", description=note or None)
        else:
            update_progress_artifact(artifact_id=self._id, progress=share, description=note or None)
