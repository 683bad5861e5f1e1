"""A process that imports the training program once and forks a run of it per request, some of them doomed.

Reads requests from standard input, a JSON object a line: {"spec": path, "stdout": path, "doom": null or [point, step]}.
Writes one line per request: the return code as subprocess reports it (negative: killed by that signal).
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

from storage.checkpoint import CheckpointStore
from vlp import train_main
from vlp.run_log import RunLog


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(step: int, action) -> None:
    """Do something after the metrics of a step were written, before anything else."""
    original = RunLog.step

    def patched(self, row, **times):
        original(self, row, **times)
        if row["step"] == step:
            action(self)

    RunLog.step = patched


def at_save(step: int, before, after) -> None:
    original = CheckpointStore.save

    def patched(self, saved_step, files):
        if saved_step == step:
            before()
        original(self, saved_step, files)
        if saved_step == step:
            after()

    CheckpointStore.save = patched


def at_rename(name: str, function: str) -> None:
    original = getattr(os, function)

    def patched(source, target):
        if Path(target).name == name:
            die()
        original(source, target)

    setattr(os, function, patched)


def tear_metrics(log: RunLog) -> None:
    with log.path.open("a") as stream:
        stream.write('{"step": 99, "lo')
    die()


def break_lifeline(write_end: int) -> None:
    os.close(write_end)
    threading.Event().wait(60)


def prepare(point: str, step: int) -> None:
    if point == "step":
        at_step(step, lambda log: die())
    elif point == "torn metrics":
        at_step(step, tear_metrics)
    elif point == "before save":
        at_save(step, die, lambda: None)
    elif point == "inside save":
        at_rename(f"step-{step:08d}", "rename")
    elif point == "after save":
        at_save(step, lambda: None, die)
    elif point == "before summary":
        at_rename("summary.json", "replace")
    elif point == "sigterm":
        at_step(step, lambda log: os.kill(os.getpid(), signal.SIGTERM))
    elif point == "lifeline":
        read_end, write_end = os.pipe()
        os.dup2(read_end, 0)
        sys.stdin = os.fdopen(0)
        at_step(step, lambda log: break_lifeline(write_end))
    else:
        raise ValueError(point)


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            with open(request["stdout"], "w") as sys.stdout, open(os.devnull) as sys.stdin:
                if request["doom"]:
                    prepare(*request["doom"])
                code = train_main.main([request["spec"]])
                sys.stdout.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
