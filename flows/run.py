"""Running a configuration from the command line, with Prefect or without."""

import contextlib
import json
import os
import signal
import time
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.build import build_step, done_steps
from flows.config import PipelineConfig, load_config
from flows.dag import Dag
from flows.graph import build_dag
from flows.progress import JsonProgress, Progress, TerminalProgress
from storage.artifact import Artifact, Workspace
from storage.errors import DamagedStoreError

# Settings regionvlp needs of Prefect where the user has set nothing: no call home, no cache by surprise, heartbeats that let
# an automation notice a dead run, time for a temporary server to make its database on a busy machine (seconds; 20 by default).
PREFECT_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "DO_NOT_TRACK": "1",
}
console = Console(stderr=True, highlight=False)


def run_pipeline(
    source: str,
    workspace: Path,
    overrides: list[str],
    *,
    start: str | None = None,
    only: str | None = None,
    until: str | None = None,
    as_json: bool = False,
    plain: bool = False,
) -> None:
    """Load a configuration and run the selected steps."""
    config = load_config(source, overrides)
    run_config(config, workspace, start=start, only=only, until=until, as_json=as_json, plain=plain)


def run_config(
    config: PipelineConfig,
    workspace: Path,
    *,
    start: str | None = None,
    only: str | None = None,
    until: str | None = None,
    as_json: bool = False,
    plain: bool = False,
) -> None:
    """Run the selected steps of a configuration; with nothing to do, say so without starting Prefect."""
    began = time.monotonic()
    dag, place = build_dag(config), Workspace(workspace)
    selected = dag.select(start=start, only=only, until=until)
    dag.require_inputs(selected, place)
    done = done_steps(dag, selected, place)
    if len(done) == len(selected):
        say(as_json, f"nothing to do: all {len(selected)} steps are done", event="nothing-to-do", steps=len(selected))
    else:
        listener: Progress = JsonProgress() if as_json else TerminalProgress()
        _go(
            config,
            dag,
            place,
            selected,
            listener,
            plain=plain,
            selection={"start": start, "only": only, "until": until},
        )
        seconds = time.monotonic() - began
        say(
            as_json, f"finished {len(selected) - len(done)} steps in {seconds:.0f} s ({len(done)} were done before)",
            event="finished", seconds=round(seconds, 1),
        )  # fmt: skip
    _say_results(dag, place, selected, as_json=as_json)


def _go(
    config, dag, place: Workspace, selected: list[str], listener: Progress, *, plain: bool, selection: dict
) -> None:
    try:
        if plain:
            for name in selected:
                build_step(dag, name, place, config.execution, listener)
        else:
            _with_prefect(config, place, listener, selection)
    except Exception as error:
        _keep_traceback(place, error)
        raise


def _with_prefect(config: PipelineConfig, place: Workspace, listener: Progress, selection: dict) -> None:
    for key, value in PREFECT_SETTINGS.items():
        os.environ.setdefault(key, value)
    if "PREFECT_API_URL" not in os.environ:
        # Without a server of the user's the terminal is the only reader; this command prints progress and errors itself.
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    from flows.pipeline import pipeline
    from flows.tasks import listening

    try:
        _start_temporary_server()
        with listening(listener):
            pipeline(config, workspace=str(place.root), **selection)
    except RuntimeError as error:
        if "Failed to reach API" in str(error):  # Prefect raises a bare RuntimeError
            raise RuntimeError(
                f"{error}: start that Prefect server, unset PREFECT_API_URL to use a temporary one, or add --no-orchestrator"
            ) from error
        raise


def _start_temporary_server() -> None:
    """Start the server Prefect would start by itself, deaf to Ctrl-C, which a terminal sends to it too.

    Measured: the server ended first, Prefect then spent two minutes trying to tell it that the run had stopped, and ended in a traceback.
    A blocked signal stays blocked in a child, whatever handler it installs. Nothing is started where the user has a server.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _keep_traceback(place: Workspace, error: Exception) -> None:
    """Write the traceback to logs/last-error.txt; where that is impossible (full or read-only disk) the error itself matters more."""
    with contextlib.suppress(OSError):
        folder = place.root / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "last-error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")


def _say_results(dag: Dag, place: Workspace, selected: list[str], *, as_json: bool) -> None:
    for name in selected:
        step, artifact = dag.steps[name], place.find(dag.steps[name].recipe)
        if artifact is None:
            continue
        if step.stage == "evaluate":
            scores = _scores(artifact)
            recalls = "  ".join(f"{key} {scores['t2v'][key]:.1f} %" for key in ("R@1", "R@5", "R@10"))
            text = f"{name}: text to video {recalls}  MedR {scores['t2v']['MedR']:g}"
            text += f"  ({scores['num_captions']} captions, {scores['num_clips']} clips)"
            say(as_json, text, event="scores", step=name, scores=scores)
        if step.stage == "report":
            path = artifact.file("report.html")
            say(as_json, f"report: {path}", event="report", path=str(path))


def _scores(artifact: Artifact) -> dict[str, Any]:
    path = artifact.file("metrics.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedStoreError(
            f"{path}: not JSON ({error}); delete the file and run again, only it is remade"
        ) from error


def say(as_json: bool, text: str, **fields) -> None:
    """One line for people on standard error, or one JSON object of the fields on standard output."""
    if as_json:
        print(json.dumps(fields), flush=True)
    else:
        console.print(text, markup=False, soft_wrap=True)
