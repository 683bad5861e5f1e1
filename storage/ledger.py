"""The failure ledger: one Parquet row per clip and stage that says ok, failed or excluded, and why.

Failures are data: a clip that cannot be read becomes a row here and leaves the training plan; it never becomes zeros.
"""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from storage.durable import replace_file
from storage.errors import DamagedStoreError

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)
STATUSES = ("ok", "failed", "excluded")


class Reason(StrEnum):
    """Why a clip is not ok."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    TRUNCATED = "truncated"
    EMPTY = "empty"
    TOO_SHORT = "too_short"
    NO_FRAMES = "no_frames"
    EMPTY_CAPTION = "empty_caption"
    DUPLICATE_ID = "duplicate_id"
    OUTSIDE_ROOT = "outside_root"
    BAD_BOX = "bad_box"
    NON_FINITE = "non_finite"
    UPSTREAM_FAILED = "upstream_failed"


@dataclass(frozen=True)
class LedgerRow:
    """One clip's fate in one stage.

    Args:
        clip_id: the clip, as in the manifest.
        row: manifest row; -1 for a clip that never got one (excluded while the manifest was built).
        stage: stage that speaks.
        status: "ok", "failed" (may succeed when retried) or "excluded" (cannot).
        reason: a Reason unless ok.
        message: what was found, for a human; "" if ok.
        attempts: tries so far.
        seconds: wall time spent on the clip.
    Raises:
        ValueError: unknown status or reason, or a reason that does not fit the status.
    """

    clip_id: str
    row: int
    stage: str
    status: Literal["ok", "failed", "excluded"]
    reason: Reason | None = None
    message: str = ""
    attempts: int = 1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"clip {self.clip_id!r}: ledger status {self.status!r}, allowed are {', '.join(STATUSES)}")
        if self.reason is not None and self.reason not in list(Reason):
            raise ValueError(f"clip {self.clip_id!r}: ledger reason {self.reason!r}, allowed are {', '.join(Reason)}")
        if (self.reason is None) != (self.status == "ok"):
            raise ValueError(
                f"clip {self.clip_id!r}: status {self.status!r} with reason {self.reason!r}; "
                "a row that is not ok needs a reason, an ok row has none"
            )


def ledger_table(rows: Iterable[LedgerRow]) -> pa.Table:
    """The rows as a table of SCHEMA, in the order given."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)


def write_ledger(path: Path | str, rows: Iterable[LedgerRow]) -> None:
    """Write a ledger file atomically and durably."""
    buffer = io.BytesIO()
    pq.write_table(ledger_table(rows), buffer)
    replace_file(Path(path), buffer.getvalue(), subject=f"ledger {Path(path).name}")


def read_ledger(path: Path | str) -> pa.Table:
    """Read a ledger file. Raises FileNotFoundError; DamagedStoreError when the file is not a ledger."""
    try:
        table = pq.read_table(path, memory_map=False)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DamagedStoreError(f"ledger {Path(path).name}: not readable as Parquet ({error})") from error
    if not table.schema.equals(SCHEMA):
        raise DamagedStoreError(f"ledger {Path(path).name}: columns are {table.schema.names}, expected {SCHEMA.names}")
    return table


def failed_rows(table: pa.Table) -> set[int]:
    """Manifest rows that are not usable (failed or excluded) according to a ledger table."""
    pairs = zip(table["row"].to_pylist(), table["status"].to_pylist(), strict=True)
    return {row for row, status in pairs if status != "ok" and row >= 0}
