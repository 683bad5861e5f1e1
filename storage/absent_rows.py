"""What to say of a row: its clip, and why it has no data. The part's ledger knows."""

from storage.commits import label
from storage.errors import DamagedStoreError, FailedRowError, MissingRowError
from storage.shards import PartSet


def describe_row(parts: PartSet, row: int) -> str:
    """ "clip 'v12' (row 12) in shard 1 of extract/demo-1a2b3c4d"; without the clip where no ledger row names it."""
    shard = parts.plan.shard_of(row)
    entry = _ledger_entry(parts, row)
    clip = f"clip {entry['clip_id']!r} (row {row})" if entry else f"row {row}"
    return f"{clip} in shard {shard} of {label(parts.directory)}"


def absent_row_error(parts: PartSet, row: int, *, known_failed: bool = False) -> FailedRowError | MissingRowError:
    """FailedRowError with the ledger's reason if it has one or the row is `known_failed`, else MissingRowError."""
    entry = _ledger_entry(parts, row)
    where = describe_row(parts, row)
    if known_failed and (entry is None or entry["status"] == "ok"):
        return FailedRowError(f"{where}: failed, and the ledger gives no reason")
    if entry is None or entry["status"] == "ok":
        return MissingRowError(f"{where}: was never written; run its stage again, 'regionvlp why' says which one")
    return FailedRowError(
        f"{where}: {entry['status']} in stage {entry['stage']!r}, {entry['reason']}: {entry['message']}"
    )


def _ledger_entry(parts: PartSet, row: int) -> dict | None:
    """The row of the ledger about a manifest row; what is not ok first."""
    try:
        entries = parts.ledger_of(parts.plan.shard_of(row)).to_pylist()
    except (MissingRowError, DamagedStoreError):
        return None  # the message at hand matters more than the ledger's own damage
    about = [entry for entry in entries if entry["row"] == row]
    return min(about, key=lambda entry: entry["status"] == "ok", default=None)
