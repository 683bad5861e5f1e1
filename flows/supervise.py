"""A training process under watch: its own process group, a lifeline, a stall detector.

Prefect's own task timeout cannot interrupt a blocking call (measured: ``timeout_seconds=1`` returned after 6 s), so the watch is kept here.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Seconds a process gets to write a checkpoint after SIGTERM before SIGKILL.
GRACE_SECONDS = 30.0


class ProcessFailedError(RuntimeError):
    """The process ended with a non-zero code (``code``) or went silent (``code`` is None)."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


def run_supervised(
    command: Sequence[str], *, log: Path, on_event: Callable[[dict], None], stall_seconds: float, env: Mapping[str, str]
) -> None:
    """Run a process to its end.

    Its standard input is a lifeline: it is never written to and closes when this process dies in whatever way, upon which
    the child ends itself, so that a killed run leaves no orphan that still writes. Each line of its standard output that
    is a JSON object goes to ``on_event``; everything else, and standard error, goes to ``log``.

    Raises:
        ProcessFailedError: non-zero exit (the log's last lines are in the message) or silence for ``stall_seconds``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=dict(env),
            start_new_session=True,
        )
        try:
            _follow(process, stream, on_event, stall_seconds, log)
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
        finally:
            process.stdin.close()
            process.stdout.close()
    if code != 0:
        raise ProcessFailedError(
            f"{Path(command[0]).name} {' '.join(command[1:4])} ended with code {code}; {_tail(log)}"
        )


def _follow(process: subprocess.Popen, stream, on_event, stall_seconds: float, log: Path) -> None:
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True, name="supervise-stdout").start()
    while True:
        try:
            line = lines.get(timeout=stall_seconds)
        except queue.Empty:
            raise ProcessFailedError(
                f"the process was silent for {stall_seconds:.0f} s and was stopped; {_tail(log)}"
            ) from None
        if line is None:
            return
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict):
            on_event(event)
        else:
            stream.write(line)
            stream.flush()


def _stop(process: subprocess.Popen) -> None:
    """SIGTERM to the group, SIGKILL after the grace period."""
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(timeout=patience)
            return
        except subprocess.TimeoutExpired:
            continue


def _tail(log: Path, lines: int = 15) -> str:
    """The last lines of the log, for an error message."""
    text = log.read_text(errors="replace").splitlines()[-lines:]
    return "its log ends with:\n" + "\n".join(f"    {line}" for line in text) if text else "its log is empty"
