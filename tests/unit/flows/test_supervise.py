"""The supervised process: events, failure, silence, and no orphan after the parent is killed."""

import os
import select
import signal
import subprocess
import sys

import pytest

from flows.supervise import ProcessFailedError, run_supervised

PYTHON = [sys.executable, "-c"]


def supervised(code, tmp_path, stall_seconds=60.0):
    events = []
    run_supervised(
        [*PYTHON, code], log=tmp_path / "log", on_event=events.append, stall_seconds=stall_seconds, env=os.environ
    )
    return events


def test_json_lines_are_events_and_the_rest_is_logged(tmp_path):
    code = "import sys; print('{\"step\": 1}'); print('hello'); print('oops', file=sys.stderr)"
    assert supervised(code, tmp_path) == [{"step": 1}]
    assert sorted((tmp_path / "log").read_text().split()) == ["hello", "oops"]


def test_failure_shows_the_end_of_the_log(tmp_path):
    with pytest.raises(ProcessFailedError, match=r"ended with code 3(.|\n)*the disk is on fire"):
        supervised("import sys; print('the disk is on fire', file=sys.stderr); sys.exit(3)", tmp_path)


def test_a_silent_process_is_stopped(tmp_path):
    with pytest.raises(ProcessFailedError, match="silent for 1 s"):
        supervised("import signal; print('{}', flush=True); signal.pause()", tmp_path, stall_seconds=1.0)


PARENT = """
import sys, os
from flows.supervise import run_supervised
child = "import os, sys, threading; print('{\\"pid\\": %d}' % os.getpid(), flush=True); sys.stdin.buffer.read(); os._exit(9)"
run_supervised([sys.executable, "-c", child], log=__import__("pathlib").Path(sys.argv[1]), stall_seconds=60, env=os.environ,
               on_event=lambda event: print(event["pid"], flush=True))
"""


def test_the_lifeline_closes_when_the_parent_is_killed(tmp_path):
    with subprocess.Popen([*PYTHON, PARENT, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        watch = os.pidfd_open(child)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    # A pidfd becomes readable when its process ends: wait for that, not for an amount of time.
    assert select.select([watch], [], [], 30)[0], "the child outlived its killed parent"
    os.close(watch)
