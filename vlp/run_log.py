"""What a training run tells: numbers that are part of its output, times that are not, and events for whoever watches.

`metrics.jsonl` is payload: it holds only what the recipe decides, and a resumed run continues it without a gap, a
duplicate or a changed byte. Times go to `logs/timings.jsonl`, which only grows, and to the events.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.durable import replace_file

Event = dict[str, Any]
SECONDS_BETWEEN_EVENTS = 0.5  # a watcher redraws a bar; more would only cost the watcher time


class RunLog:
    """Metrics, timings and events of one run.

    Args:
        directory: output directory of the run; `logs/` is made in it.
        on_event: called with a JSON-like dict, at most every half second for steps.
        total_steps: of the whole run.
    """

    def __init__(self, directory: Path, on_event: Callable[[Event], None], total_steps: int) -> None:
        self.path = directory / "metrics.jsonl"
        self._on_event = on_event
        self._total_steps = total_steps
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        self._timings = (directory / "logs" / "timings.jsonl").open("a", encoding="utf-8")
        self._metrics = None
        self._last_event = 0.0
        self._began, self._seen_samples, self._seen_steps, self._waited = time.monotonic(), 0, 0, 0.0

    def start(self, content: bytes) -> None:
        """Begin with the metrics a checkpoint brought along; what the file holds beyond or instead is forgotten."""
        replace_file(self.path, content)
        self._metrics = self.path.open("a", encoding="utf-8")
        self._began = time.monotonic()

    def content(self) -> bytes:
        """The metrics so far; they travel inside the checkpoint."""
        return self.path.read_bytes()

    def step(self, row: dict[str, Any], *, samples: int, seconds: float, waited: float) -> None:
        """One finished optimizer step: `row` is payload, the rest are times (seconds; waited of them for data)."""
        self._write(row)
        times = {"step": row["step"], "seconds": round(seconds, 6), "data_wait_share": round(waited / seconds, 4)}
        self._timings.write(json.dumps(times) + "\n")
        self._seen_samples, self._seen_steps = self._seen_samples + samples, self._seen_steps + 1
        self._waited += waited
        now = time.monotonic()
        if now - self._last_event >= SECONDS_BETWEEN_EVENTS or row["step"] == self._total_steps:
            self._last_event = now
            self._on_event({"event": "step", **row, **self._speed(now, row["step"])})

    def validation(self, row: dict[str, Any]) -> None:
        """One finished validation; payload too."""
        self._write(row)
        self.event("validation", **row)

    def event(self, kind: str, **content: Any) -> None:
        """Tell the watcher something else."""
        self._on_event({"event": kind, **content})

    def close(self) -> None:
        """Bring the metrics to disk and close."""
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())
            self._metrics.close()
        self._timings.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._metrics.write(json.dumps(row, allow_nan=False) + "\n")
        self._metrics.flush()

    def _speed(self, now: float, step: int) -> dict[str, Any]:
        seconds = max(now - self._began, 1e-9)
        return {
            "total_steps": self._total_steps,
            "samples_per_second": round(self._seen_samples / seconds, 3),
            "eta_seconds": round(seconds / self._seen_steps * (self._total_steps - step), 1),
            "data_wait_share": round(self._waited / seconds, 4),
        }


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl: training steps (with `loss`) and validations (with `val`).

    A last line without its end is left out: the run is being written, or was killed there.
    """
    with Path(path).open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream if line.endswith("\n")]
