"""Shards of one store: fixed row ranges, each written by one writer and committed once.

    parts/000003/...         the data of shard 3, immutable
    commits/000003.json      its commit record; the part exists only if this does
    ledger/000003.parquet    what happened to its clips (has times, so it is no payload)
    leases/                  who is working on what

Commit order: data fsynced under a temporary name, renamed to `parts/000003`, ledger, then the record by hard link. A
kill at any point leaves either a committed part or litter that the next writer clears. Two writers of one shard are
harmless: the second finds the record and throws its own work away.
"""

import datetime
import json
import os
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.commits import COMMITS, LEASES, LEDGERS, PARTS, CommitRecord, label, part_label, shard_name
from storage.durable import (
    TEMPORARY_MARK,
    digest_file,
    file_entry,
    naming_disk_full,
    publish_once,
    remove_tree,
    sync_directory,
    sync_tree,
    temporary_name,
    tree_files,
)
from storage.errors import (
    DamagedStoreError,
    FingerprintMismatchError,
    LeaseHeldError,
    LeaseLostError,
    MissingRowError,
)
from storage.lease import DEFAULT_TTL_SECONDS, Lease, is_live, locked, sweep_leases
from storage.ledger import SCHEMA, LedgerRow, read_ledger, write_ledger
from storage.recipe import without_absolute_paths
from storage.shard_plan import ShardPlan

__all__ = ["PartSet", "ShardPlan"]


class PartSet:
    """The parts of one store in `directory`, all made by the recipe `fingerprint` over `plan`.

    Args:
        directory: the artifact's folder.
        plan: the row ranges.
        fingerprint: full fingerprint of the artifact's recipe; other parts are refused.
        ttl_seconds: lease time of a shard without a heartbeat.
    """

    def __init__(
        self, directory: Path | str, plan: ShardPlan, fingerprint: str, *, ttl_seconds: float = DEFAULT_TTL_SECONDS
    ) -> None:
        self.directory = Path(directory)
        self.plan = plan
        self.fingerprint = fingerprint
        self.ttl_seconds = ttl_seconds
        self._leases: dict[int, Lease] = {}
        self._staged: dict[int, list[Path]] = {}

    @classmethod
    def open(cls, directory: Path | str, fingerprint: str | None = None) -> "PartSet":
        """The PartSet that the commit records in `directory` describe, for readers.

        Raises:
            MissingRowError: no shard was ever committed there.
            DamagedStoreError: no record is readable.
            FingerprintMismatchError: `fingerprint` is given and differs.
        """
        directory = Path(directory)
        paths = sorted((directory / COMMITS).glob("*.json"))
        if not paths:
            raise MissingRowError(f"{label(directory)}: no shard was committed; run its stage first")
        record = _first_readable(paths, directory)
        plan = ShardPlan(record.num_rows, record.rows_per_shard)
        parts = cls(directory, plan, fingerprint or record.fingerprint)
        parts._require_same_recipe(record)
        return parts

    def committed(self) -> list[int]:
        """Shards whose record is readable and whose files are all present with their size, ascending.

        Raises:
            FingerprintMismatchError: a part was made by another recipe or over another plan.
        """
        shards = (int(path.stem) for path in sorted((self.directory / COMMITS).glob("*.json")))
        return [shard for shard in shards if self._is_intact(shard)]

    def pending(self) -> list[int]:
        """Shards still to be made or remade, ascending."""
        done = set(self.committed())
        return [shard for shard in range(self.plan.num_shards) if shard not in done]

    def claim(self, shard: int) -> Lease | None:
        """Take the shard's lease; None when a live process holds it or has committed it meanwhile.

        Releasing the lease also removes what was staged under it and not committed.
        """
        self.plan.range_of(shard)
        try:
            lease = Lease.acquire(
                self._lease_path(shard),
                subject=self._shard_label(shard),
                ttl_seconds=self.ttl_seconds,
                on_release=lambda: self._forget(shard),
            )
        except LeaseHeldError:
            return None
        self._leases[shard] = lease
        try:
            made_meanwhile = self._is_intact(shard)
        except FingerprintMismatchError:
            lease.release()
            raise
        if made_meanwhile:
            lease.release()
            return None
        return lease

    def staging(self, shard: int) -> Path:
        """A fresh, empty folder to write the shard's part in. Raises LeaseLostError unless claimed here."""
        self._lease(shard)
        folder = temporary_name(self._part_path(shard))
        folder.mkdir(parents=True)
        self._staged.setdefault(shard, []).append(folder)
        return folder

    def commit(self, shard: int, staging: Path, *, ledger: Sequence[LedgerRow], facts: dict | None = None) -> bool:
        """Make the staged part the shard's part, for good, and release the shard's lease.

        Args:
            shard: a shard claimed here.
            staging: folder from `staging(shard)`, completely written.
            ledger: rows of the shard's clips.
            facts: JSON values kept in the record.
        Returns:
            True if this part was committed, False if another writer's already was (this one is discarded).
        Raises:
            LeaseLostError: the lease was lost and nobody has committed yet; the staged part is discarded.
            ValueError: no file staged, a ledger row outside the shard, or facts that JSON cannot hold.
            DiskFullError: no room; nothing is committed.
        """
        lease = self._lease(shard)
        facts = without_absolute_paths(facts or {})
        try:
            self._check_request(shard, ledger, facts)
            with naming_disk_full(self._shard_label(shard)):
                sync_tree(staging)
                files = {name: file_entry(staging / name) for name in tree_files(staging)}
                if not files:
                    raise ValueError(f"{self._shard_label(shard)}: the staged part holds no file")
                with self._commit_lock():
                    return self._commit_locked(shard, staging, files, list(ledger), facts)
        finally:
            lease.release()

    def part(self, shard: int) -> Path:
        """Folder of a committed part, after checking its record and the size of each of its files.

        Raises:
            MissingRowError: never committed.
            DamagedStoreError: the record is unreadable, or a file is missing or has another size.
            FingerprintMismatchError: made by another recipe.
        """
        self.record(shard)
        return self._part_path(shard)

    def check_all(self) -> list[int]:
        """Shards with a record, ascending, after checking the sizes of all their files (0.25 s for 20,000 files).

        Raises:
            DamagedStoreError: the first unreadable record, or missing or wrongly sized file; names part and file.
            MissingRowError: there is no record at all.
        """
        shards = [int(path.stem) for path in sorted((self.directory / COMMITS).glob("*.json"))]
        if not shards:
            raise MissingRowError(f"{label(self.directory)}: no shard was committed; run its stage first")
        for shard in shards:
            self.record(shard)
        return shards

    def record(self, shard: int) -> CommitRecord:
        """Commit record of a part; raises as `part` does."""
        record = self._require_record(shard)
        problem = record.problem(self.directory)
        if problem is not None:
            raise DamagedStoreError(f"{self._shard_label(shard)}: {problem}; run its stage again, it remakes this part")
        return record

    def verify(self, shard: int) -> list[str]:
        """Re-read a committed part against its record's digests; problems as sentences, [] = good."""
        record = self.record(shard)
        expected = {self._part_path(shard) / name: entry["digest"] for name, entry in record.files.items()}
        expected[self._ledger_path(shard)] = record.ledger["digest"]
        return [
            f"{path.relative_to(self.directory).as_posix()}: content differs from its commit record; "
            "delete the file and run the stage again"
            for path, digest in expected.items()
            if digest_file(path) != digest
        ]

    def ledger(self) -> pa.Table:
        """Ledger rows of all committed shards, in shard order."""
        return pa.concat_tables([SCHEMA.empty_table(), *(self.ledger_of(shard) for shard in self.committed())])

    def ledger_of(self, shard: int) -> pa.Table:
        """Ledger rows of one committed shard, also where its part is damaged.

        Raises:
            DamagedStoreError: the ledger file is not what was committed.
            MissingRowError: never committed.
        """
        record = self._require_record(shard)
        path = self._ledger_path(shard)
        if not path.exists() or digest_file(path) != record.ledger["digest"]:
            raise DamagedStoreError(
                f"{self._shard_label(shard)}: {LEDGERS}/{path.name} differs from its commit record; "
                "delete it and run its stage again, it remakes this part"
            )
        return read_ledger(path)

    def reopen(self, shard: int) -> None:
        """Make a committed shard pending again, so that its failed clips are tried anew; its old part stays unread.

        Raises:
            LeaseHeldError: a live process works on the shard.
        """
        with Lease.acquire(self._lease_path(shard), subject=self._shard_label(shard), ttl_seconds=self.ttl_seconds):
            with self._commit_lock():
                self._record_path(shard).unlink(missing_ok=True)
                if self._record_path(shard).parent.exists():
                    sync_directory(self._record_path(shard).parent)

    def sweep(self) -> list[str]:
        """Remove what dead writers left behind: staging folders and uncommitted parts whose shard nobody holds.

        Returns the names removed, relative to the store.
        """
        litter = []
        with self._commit_lock():  # no part can be between its rename and its record while this is held
            for folder in (PARTS, COMMITS, LEDGERS):
                litter += [path for path in sorted((self.directory / folder).glob("*")) if self._is_litter(path)]
            litter = [(path, self._out_of_sight(path)) for path in litter]
        for _, path in litter:
            remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)
        sweep_leases(self.directory / LEASES)
        return [path.relative_to(self.directory).as_posix() for path, _ in litter]

    def _is_litter(self, path: Path) -> bool:
        """True for a leftover of this store's own naming whose shard no live process holds (commit lock held)."""
        number = path.name.partition(".")[0]
        if not (number.isdigit() and len(number) >= 6):
            return False
        shard = int(number)
        uncommitted = path.parent.name != COMMITS and not self._record_path(shard).exists()
        return (TEMPORARY_MARK in path.name or uncommitted) and not is_live(self._lease_path(shard))

    @staticmethod
    def _out_of_sight(path: Path) -> Path:
        """Rename an uncommitted part under the lock, so that deleting it later cannot hit its successor."""
        if TEMPORARY_MARK in path.name:
            return path
        hidden = temporary_name(path)
        os.rename(path, hidden)
        return hidden

    def _commit_lock(self) -> AbstractContextManager[float]:
        return locked(self.directory / LEASES / "commit.lock")

    def _commit_locked(
        self, shard: int, staging: Path, files: dict[str, dict], ledger: list[LedgerRow], facts: dict
    ) -> bool:
        record_path, part = self._record_path(shard), self._part_path(shard)
        if self._is_intact(shard):
            return False
        lease = self._lease(shard)
        lease.check()
        record_path.unlink(missing_ok=True)  # of a damaged part: it must not speak for the new files
        if part.exists():
            orphan = temporary_name(part)
            os.rename(part, orphan)
            remove_tree(orphan)
        os.rename(staging, part)
        sync_directory(part.parent)
        write_ledger(self._ledger_path(shard), ledger)
        rows = self.plan.range_of(shard)
        record = CommitRecord(
            shard=shard,
            rows=(rows.start, rows.stop),
            num_rows=self.plan.num_rows,
            rows_per_shard=self.plan.rows_per_shard,
            fingerprint=self.fingerprint,
            files=files,
            ledger=file_entry(self._ledger_path(shard)),
            facts=facts,
            provenance={
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "token": lease.token,
                "committed": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            },
        )
        return publish_once(record_path, record.to_bytes(), subject=f"commit record of {self._shard_label(shard)}")

    def _require_record(self, shard: int) -> CommitRecord:
        """The record of this recipe's shard; its files are not looked at."""
        rows = self.plan.range_of(shard)
        try:
            record = CommitRecord.read(self._record_path(shard))
        except FileNotFoundError:
            raise MissingRowError(
                f"{self._shard_label(shard)} (rows {rows.start} to {rows.stop - 1}): never committed; run its stage again"
            ) from None
        self._require_same_recipe(record)
        return record

    def _is_intact(self, shard: int) -> bool:
        """True if the shard has a readable record and all its files have their size."""
        try:
            record = CommitRecord.read(self._record_path(shard))
        except (FileNotFoundError, DamagedStoreError):
            return False
        self._require_same_recipe(record)
        return record.problem(self.directory) is None

    def _check_request(self, shard: int, ledger: Sequence[LedgerRow], facts: dict[str, Any]) -> None:
        rows = self.plan.range_of(shard)
        outside = [entry for entry in ledger if entry.row not in rows]
        if outside:
            raise ValueError(
                f"{self._shard_label(shard)}: ledger row {outside[0].row} (clip {outside[0].clip_id!r}) is outside "
                f"its rows {rows.start} to {rows.stop - 1}"
            )
        try:
            json.dumps(facts, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self._shard_label(shard)}: facts must hold JSON values ({error})") from error

    def _require_same_recipe(self, record: CommitRecord) -> None:
        expected = {
            "fingerprint": self.fingerprint,
            "num_rows": self.plan.num_rows,
            "rows_per_shard": self.plan.rows_per_shard,
        }
        for name, value in expected.items():
            found = getattr(record, name)
            if found != value:
                raise FingerprintMismatchError(
                    f"{self._shard_label(record.shard)}: its commit record has {name} {found}, this run has {value}; "
                    "the store was made with another config: use another artifact folder or remove this one"
                )

    def _lease(self, shard: int) -> Lease:
        if shard not in self._leases:
            raise LeaseLostError(f"{self._shard_label(shard)}: not claimed by this PartSet; call claim({shard}) first")
        return self._leases[shard]

    def _forget(self, shard: int) -> None:
        self._leases.pop(shard, None)
        for folder in self._staged.pop(shard, []):
            remove_tree(folder)

    def _part_path(self, shard: int) -> Path:
        return self.directory / PARTS / shard_name(shard)

    def _record_path(self, shard: int) -> Path:
        return self.directory / COMMITS / f"{shard_name(shard)}.json"

    def _ledger_path(self, shard: int) -> Path:
        return self.directory / LEDGERS / f"{shard_name(shard)}.parquet"

    def _lease_path(self, shard: int) -> Path:
        return self.directory / LEASES / f"shard-{shard_name(shard)}.lease"

    def _shard_label(self, shard: int) -> str:
        return part_label(self._part_path(shard))


def _first_readable(paths: Sequence[Path], directory: Path) -> CommitRecord:
    for path in paths:
        try:
            return CommitRecord.read(path)
        except DamagedStoreError:
            continue
    raise DamagedStoreError(
        f"{label(directory)}: none of its {len(paths)} commit records is readable; run its stage again"
    )
