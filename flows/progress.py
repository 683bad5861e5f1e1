"""Progress of a step, told to whoever listens: a terminal, a JSON stream, Prefect."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """Listener of one step."""

    def start(self, step: str, total: int | None, unit: str) -> None:
        """A step begins; ``total`` units of work if known."""

    def update(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` units are finished."""

    def end(self, outcome: str, seconds: float) -> None:
        """The step ended: 'done', 'cached' or 'failed'."""


class SilentProgress:
    """Listens to nothing."""

    def start(self, step: str, total: int | None, unit: str) -> None:
        """Ignore."""

    def update(self, done: int, total: int, note: str = "") -> None:
        """Ignore."""

    def end(self, outcome: str, seconds: float) -> None:
        """Ignore."""


class TerminalProgress:
    """A bar with rate and remaining time; plain lines when the output is not a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task = None
        self._step, self._unit, self._began, self._printed = "", "", 0.0, 0.0

    def start(self, step: str, total: int | None, unit: str) -> None:
        """Show an empty bar."""
        self._step, self._unit, self._began, self._printed = step, unit, time.monotonic(), time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"[bold]{step}[/bold] started", highlight=False)
            return
        columns = (
            TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._bar = RichProgress(*columns, console=self._console, transient=True)
        self._bar.start()
        self._task = self._bar.add_task(step, total=total, rate="", note="")

    def update(self, done: int, total: int, note: str = "") -> None:
        """Move the bar."""
        seconds = max(time.monotonic() - self._began, 1e-6)
        rate = f"{done / seconds:.1f} {self._unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=rate, note=note)
        elif time.monotonic() - self._printed > 10:  # a log file gets a line every ten seconds, not thousands
            self._printed = time.monotonic()
            left = seconds / max(done, 1) * (total - done)
            self._console.print(
                f"  {self._step}: {done}/{total} {self._unit}, {rate}, about {left:.0f} s left {note}", highlight=False
            )

    def end(self, outcome: str, seconds: float) -> None:
        """Replace the bar by one line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        word = {"done": "[green]done[/green]", "cached": "[cyan]cached[/cyan]", "failed": "[red]failed[/red]"}[outcome]
        self._console.print(f"{self._step:<22} {word}  {seconds:8.1f} s", highlight=False)


class JsonProgress:
    """One JSON object a line on standard output."""

    def start(self, step: str, total: int | None, unit: str) -> None:
        """Write a ``start`` event."""
        self._step, self._printed = step, 0.0
        self._write(event="start", total=total, unit=unit)

    def update(self, done: int, total: int, note: str = "") -> None:
        """Write a ``progress`` event, at most one a second."""
        if time.monotonic() - self._printed >= 1 or done == total:
            self._printed = time.monotonic()
            self._write(event="progress", done=done, total=total, note=note)

    def end(self, outcome: str, seconds: float) -> None:
        """Write an ``end`` event."""
        self._write(event="end", outcome=outcome, seconds=round(seconds, 3))

    def _write(self, **fields) -> None:
        print(json.dumps({"step": self._step, **fields}), file=sys.stdout, flush=True)


class SeveralProgress:
    """Passes everything on to several listeners."""

    def __init__(self, listeners: Sequence[Progress]) -> None:
        self._listeners = tuple(listeners)

    def start(self, step: str, total: int | None, unit: str) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.start(step, total, unit)

    def update(self, done: int, total: int, note: str = "") -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.update(done, total, note)

    def end(self, outcome: str, seconds: float) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.end(outcome, seconds)
