"""Commit records: the small JSON file that makes one part of a store exist.

A record is written last and never changes. It names every file of the part with size and digest, so that a missing,
truncated or swapped file is found before anything is read from it. It holds no absolute path.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.durable import TEMPORARY_MARK
from storage.errors import DamagedStoreError

PARTS, COMMITS, LEDGERS, LEASES = "parts", "commits", "ledger", "leases"


@dataclass(frozen=True)
class CommitRecord:
    """One committed shard.

    Args:
        shard: number of the shard; its part is `parts/<shard, 6 digits>`.
        rows: (first, end) manifest rows, end exclusive.
        num_rows, rows_per_shard: the plan the shard belongs to.
        fingerprint: recipe of the artifact it was made for.
        files: path relative to the part -> {"bytes", "digest"}.
        ledger: {"bytes", "digest"} of `ledger/<shard>.parquet`.
        facts: free JSON values of the stage.
        provenance: host, pid, fencing token, time; outside the payload.
    """

    shard: int
    rows: tuple[int, int]
    num_rows: int
    rows_per_shard: int
    fingerprint: str
    files: dict[str, dict[str, Any]]
    ledger: dict[str, Any]
    facts: dict[str, Any]
    provenance: dict[str, Any]

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False).encode("utf-8")

    @classmethod
    def read(cls, path: Path) -> "CommitRecord":
        """Raises FileNotFoundError; DamagedStoreError when the text is not a complete record."""
        try:
            values = json.loads(path.read_bytes())
            return cls(**{**values, "rows": tuple(values["rows"])})
        except FileNotFoundError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedStoreError(f"commit record {path.name}: not a complete record ({error})") from error

    def problem(self, directory: Path) -> str | None:
        """First file of the part or ledger that is absent or has another size, as a phrase; None if all are there."""
        shard = shard_name(self.shard)
        expected = {f"{PARTS}/{shard}/{name}": entry for name, entry in self.files.items()}
        expected[f"{LEDGERS}/{shard}.parquet"] = self.ledger
        for relative, entry in expected.items():
            found = size_problem(directory / relative, entry["bytes"])
            if found is not None:
                return f"{relative} {found}"
        return None


def shard_name(shard: int) -> str:
    """Six digits, so that names sort as numbers."""
    return f"{shard:06d}"


def label(directory: Path) -> str:
    """`stage/name-fingerprint`: how messages name an artifact without an absolute path."""
    return f"{directory.parent.name}/{directory.name}"


def part_label(folder: Path) -> str:
    """ "part 000003 of stage/name-fingerprint" for a part's folder or its staging folder."""
    return f"part {folder.name.partition(TEMPORARY_MARK)[0]} of {label(folder.parent.parent)}"


def size_problem(path: Path, expected_bytes: int) -> str | None:
    """How a file differs from the size its record gives, as the end of a sentence; None if it does not."""
    try:
        found = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if found != expected_bytes:
        return f"has {found} bytes where its record says {expected_bytes}"
    return None


def committed_entries(directory: Path) -> dict[str, dict[str, Any]]:
    """Sizes and digests that commit records already hold: terabytes of parts are not hashed a second time."""
    entries: dict[str, dict[str, Any]] = {}
    for path in sorted((directory / COMMITS).glob("*.json")):
        record = CommitRecord.read(path)
        problem = record.problem(directory)
        if problem is not None:
            raise DamagedStoreError(f"{directory.parent.name}/{directory.name}: {problem}; run the stage again")
        shard = shard_name(record.shard)
        entries.update({f"{PARTS}/{shard}/{name}": entry for name, entry in record.files.items()})
        entries[f"{LEDGERS}/{shard}.parquet"] = record.ledger
    return entries


def count_commits(directory: Path) -> tuple[int, int] | None:
    """(intact commits, shards of their plan), None without any commit record."""
    records = []
    for path in sorted((directory / COMMITS).glob("*.json")):
        try:
            records.append(CommitRecord.read(path))
        except DamagedStoreError:
            continue
    if not records:
        return None
    num_shards = -(-records[0].num_rows // records[0].rows_per_shard)
    return sum(record.problem(directory) is None for record in records), num_shards
