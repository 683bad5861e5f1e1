"""Seconds per DAG stage of the demo (``make bench-dag``): an empty workspace, the whole run, then the same command again."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.frame import report


def main() -> None:
    """Run the demo twice and report."""
    with tempfile.TemporaryDirectory() as folder:
        first, first_seconds = _run(Path(folder) / "workspace")
        _, again_seconds = _run(Path(folder) / "workspace")
    steps = [(e["step"], e["seconds"]) for e in first if e.get("event") == "end"]
    scores = {e["step"]: e["scores"]["t2v"]["R@1"] for e in first if e.get("event") == "scores"}
    rows = [(name, seconds, 100 * seconds / first_seconds) for name, seconds in steps]
    rows += [
        ("whole run", first_seconds, 100.0),
        ("the same again", again_seconds, 100 * again_seconds / first_seconds),
    ]
    figures = {"seconds": dict(steps), "whole_run_s": first_seconds, "again_s": again_seconds, "t2v_R1": scores}
    figures["again_vs_first"] = again_seconds / first_seconds
    report("dag", "demo: seconds per step, share of the whole (%)", ("step", "s", "%"), rows, figures)


def _run(workspace: Path) -> tuple[list[dict], float]:
    began = time.monotonic()
    command = [sys.executable, "-m", "flows.cli", "run", "demo", "--workspace", str(workspace), "--json"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")], time.monotonic() - began


if __name__ == "__main__":
    main()
