"""Processes that may hang, crash or be killed without anyone losing more than the clip they work on.

Measured (pebble 5, 3 s timeout): a sleeping hang, a hang that holds the GIL, SIGSEGV, abort and kill -9 each cost their own
clip and no other; concurrent.futures fails every pending task on the first crash, loky has no timeout per task.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as TaskTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context

import av
from pebble import ProcessExpired, ProcessFuture, ProcessPool

from features.clip_frames import ClipProblem, ClipTask, SampledClip, sample_clip
from storage.ledger import Reason

Decode = Callable[[ClipTask], SampledClip | ClipProblem]
MAX_TASKS = (
    500  # clips before a worker is replaced: bounds what native readers leak (decord reads ahead by up to 700 MB)
)
ORPHAN_SECONDS = 30.0  # after its time limit a worker whose parent is gone kills itself
MAX_RESTARTS = 3


@dataclass(frozen=True)
class Outcome:
    """What became of a task. attempts: processes it was given to. seconds: in the last of them."""

    task: ClipTask
    result: SampledClip | ClipProblem
    attempts: int
    seconds: float


class DecodingPool:
    """A pool of spawned decoding processes, shared by all shards of a lane; a context manager.

    A clip that crashes its process is tried again as it was (something else may have killed the process), then without
    decord. A clip that outlives its time is not tried again.
    """

    def __init__(self, workers: int, *, max_tasks: int = MAX_TASKS) -> None:
        if workers < 1:
            raise ValueError(f"decoding pool: {workers} workers, at least 1 is needed")
        self._workers = workers
        self._max_tasks = max_tasks
        self._pool: ProcessPool | None = None

    def __enter__(self) -> "DecodingPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all processes at once; running clips are dropped."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def run(self, tasks: Iterable[ClipTask], decode: Decode = sample_clip) -> Iterator[Outcome]:
        """Outcomes in the order of the tasks; a few tasks per worker are under way at a time.

        Args:
            decode: a picklable function; another one than `sample_clip` is for tests.
        """
        waiting: deque[_Attempt] = deque()
        for task in tasks:
            waiting.append(self._start(task, decode, 1))
            if len(waiting) > 3 * self._workers:
                yield self._finish(waiting, decode)
        while waiting:
            yield self._finish(waiting, decode)

    def _start(self, task: ClipTask, decode: Decode, number: int) -> "_Attempt":
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self._workers,
                max_tasks=self._max_tasks,
                initializer=_quiet_worker,
                context=get_context("spawn"),
            )
        limit = task.config.timeout_seconds
        future = self._pool.schedule(_timed, args=(decode, task, limit + ORPHAN_SECONDS), timeout=limit)
        return _Attempt(task, future, number)

    def _finish(self, waiting: "deque[_Attempt]", decode: Decode) -> Outcome:
        """Outcome of the oldest attempt, after further attempts if its process crashed."""
        restarts = 0
        while True:
            attempt = waiting.popleft()
            task = attempt.task
            try:
                result, seconds = attempt.future.result()
                return Outcome(task, result, attempt.number, seconds)
            except TaskTimeoutError:
                limit = task.config.timeout_seconds
                problem = ClipProblem(Reason.TIMEOUT, f"still decoding after {limit:g} s; its process was stopped")
                return Outcome(task, problem, attempt.number, limit)
            except ProcessExpired as error:
                if attempt.number == 3:
                    problem = ClipProblem(Reason.CRASHED, f"the decoding process died: {_exit(error.exitcode)}")
                    return Outcome(task, problem, attempt.number, 0.0)
                if attempt.number == 2:
                    task = replace(task, config=task.config.model_copy(update={"reader": "pyav"}))
                waiting.appendleft(self._start(task, decode, attempt.number + 1))
            except BrokenProcessPool:
                restarts += 1
                if restarts > MAX_RESTARTS:
                    raise
                self._restart(attempt, waiting, decode)

    def _restart(self, attempt: "_Attempt", waiting: "deque[_Attempt]", decode: Decode) -> None:
        """A new pool for everything under way: pebble gives up where an idle worker is killed from outside."""
        self.close()
        under_way = [attempt, *waiting]
        waiting.clear()
        waiting.extend(self._start(item.task, decode, item.number) for item in under_way)


@dataclass(frozen=True)
class _Attempt:
    task: ClipTask
    future: ProcessFuture
    number: int


def _timed(decode: Decode, task: ClipTask, kill_after: float) -> tuple[SampledClip | ClipProblem, float]:
    """In the worker. The alarm's default action ends the process even inside native code, if the parent cannot any more."""
    signal.setitimer(signal.ITIMER_REAL, kill_after)
    start = time.perf_counter()
    try:
        return decode(task), time.perf_counter() - start
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _quiet_worker() -> None:
    """Once per process: damaged files must not fill the log, nor make decord retry for minutes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent, which stops the pool
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.environ["DECORD_EOF_RETRY_MAX"] = "128"  # default 10240; see decord issue 373
    av.logging.set_level(None)
    import decord

    decord.logging.set_level(decord.logging.QUIET)


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
