"""A training run as a process: `python -m vlp.train_main SPEC.json`.

SPEC.json is a vlp.training.TrainSpec. Events are JSON objects, a line each, on standard output; warnings and tracebacks go
to standard error. Started with a pipe on standard input, the process ends itself at once when the other end closes: its
parent is gone, and an orphan must not go on writing. (Any other standard input is ignored.)

Exit codes: 0 the output is complete; 75 stopped by SIGTERM or SIGINT after a checkpoint, run again to go on; 65 the loss was
not finite, a repetition would end alike; 66 the lifeline broke; 2 the specification is not valid; 1 anything else.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
from pathlib import Path

from pydantic import ValidationError

from storage.lease import Lease
from vlp.run_log import Event
from vlp.training import NonFiniteLossError, TrainSpec, train

DONE, INVALID_SPEC, NON_FINITE, LIFELINE_BROKEN, STOPPED = 0, 2, 65, 66, 75


def main(arguments: list[str]) -> int:
    """Run the specification in the file named by the one argument; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m vlp.train_main SPEC.json", file=sys.stderr)
        return INVALID_SPEC
    try:
        spec = TrainSpec.model_validate_json(Path(arguments[0]).read_bytes())
    except (OSError, ValidationError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return INVALID_SPEC
    watch_lifeline()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with Lease.acquire(spec.output / "leases" / "train.lease", subject="this training run"):
        try:
            finished = train(spec, on_event=emit, stop=stopping.is_set)
        except NonFiniteLossError as error:
            emit({"event": "failed", "message": str(error)})
            print(f"error: {error}", file=sys.stderr)
            return NON_FINITE
    return DONE if finished else STOPPED


def emit(event: Event) -> None:
    """One line of JSON for the parent."""
    print(json.dumps(event), flush=True)


def watch_lifeline() -> None:
    """End this process, without any clean-up, when a pipe on standard input closes. Everything on disk is written under
    temporary names, so this is as safe as a SIGKILL, which is what happened to the parent."""
    if sys.stdin is None or not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        return

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(LIFELINE_BROKEN)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
