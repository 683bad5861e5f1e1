"""The frame every benchmark stands in: one run, a table on screen, one JSON of ratios under benchmarks/results.

A ratio is taken in one run on one machine between ours and what users would use otherwise; the JSON says on which machine and when.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def report(
    name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], figures: Mapping[str, Any]
) -> Path:
    """Print the table and write ``results/{name}.json``.

    Args:
        name: file name of the JSON, the benchmark's.
        title: what was measured, with units.
        columns: column titles.
        rows: cells, numbers or text.
        figures: keys and numbers that the issue or the docs quote.
    """
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**figures, "machine": machine()}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")
    return path


def machine() -> dict[str, Any]:
    """Where and when: processor, cores, memory, GPU, date, commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit or "unknown",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
