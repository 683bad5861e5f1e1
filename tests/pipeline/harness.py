"""Runs of the real command line on a tiny configuration, each in processes of its own with the network blocked."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flows.config import load_config
from flows.graph import build_dag
from storage.artifact import Workspace, payload_digests

HERE = Path(__file__).parent
TINY = HERE / "tiny.yaml"
STEPS = [
    "corpora-pretrain", "corpora-downstream", "sample-pretrain", "sample-downstream", "train-detector", "extract-pretrain",
    "extract-downstream", "pretrain", "finetune-retrieval", "evaluate-zeroshot", "evaluate-retrieval", "embed-library", "report",
]  # fmt: skip


@dataclass
class Outcome:
    """What one run of the command printed and did."""

    code: int
    events: list[dict]
    stderr: str

    def built(self) -> list[str]:
        """Steps that were really built."""
        return [e["step"] for e in self.events if e.get("event") == "end" and e["outcome"] == "done"]

    def cached(self) -> list[str]:
        """Steps that came back at once."""
        return [e["step"] for e in self.events if e.get("event") == "end" and e["outcome"] == "cached"]


@dataclass
class CommandLine:
    """Runs ``regionvlp`` commands."""

    home: Path
    extra: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The tests' environment, with a Prefect home of its own and no network."""
        path = os.pathsep.join([str(HERE / "guard"), str(HERE.parents[1])])
        quiet = {
            "PREFECT_HOME": str(self.home / "prefect"),
            "HOME": str(self.home),
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        return {**kept, **quiet, "HF_HUB_OFFLINE": "1", **self.extra}

    def start(self, *arguments: str | Path) -> subprocess.Popen:
        """Start a command with its output in pipes."""
        command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
            start_new_session=True,
        )

    def __call__(self, *arguments: str | Path) -> Outcome:
        """Run a command to its end."""
        with self.start(*arguments) as process:
            stdout, stderr = process.communicate(timeout=420)
        return Outcome(process.returncode, _events(stdout), stderr)

    def run_tiny(self, workspace: Path, *arguments: str, plain: bool = True) -> Outcome:
        """Run the tiny configuration."""
        mode = ["--no-orchestrator"] if plain else []
        return self("run", TINY, "--workspace", workspace, "--json", *mode, *arguments)

    def kill_when(self, arguments: list, moment: Callable[[dict], bool]) -> bool:
        """Run a command and SIGKILL it at the first event that ``moment`` accepts; False if it ended before."""
        with self.start(*arguments) as process:
            for line in process.stdout:
                if any(moment(event) for event in _events(line)):
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
                    # A temporary Prefect server outlives its run (regionvlp doctor tells of such) and holds our pipes open.
                    # Training processes are in sessions of their own: they have to end by themselves.
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    return True
            process.communicate()
        return False


def _events(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def payloads(workspace: Path) -> dict[str, dict[str, str]]:
    """Digest of every payload file of every artifact but the report, which shows times."""
    return {
        f"{artifact.stage}/{artifact.path.name}": payload_digests(artifact.path)
        for artifact in Workspace(workspace).artifacts()
        if artifact.stage != "report"
    }


def without(workspace: Path, step: str) -> None:
    """Delete a step's artifact and those of all steps that need it."""
    dag = build_dag(load_config(TINY))
    for name in dag.steps:
        if step in dag.ancestors([name]):
            shutil.rmtree(Workspace(workspace).directory(dag.steps[name].recipe), ignore_errors=True)
