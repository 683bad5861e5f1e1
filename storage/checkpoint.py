"""Checkpoints: opaque bytes of training state, kept so that a crash at any moment loses at most one.

    checkpoints/step-00000200/<files>, record.json       the record lists size and digest of each file

A checkpoint is written whole under a temporary name, synced, and renamed; then older ones go. Its record says how many
stay, so that whoever looks next can finish a save that was killed in between: the folder ends up the same either way.
Reading skips damaged ones, newest first. One writer at a time: the artifact's lease sees to that. Nothing in a
checkpoint depends on time or host.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.commits import size_problem
from storage.durable import (
    TEMPORARY_MARK,
    digest_bytes,
    naming_disk_full,
    remove_tree,
    sync_directory,
    temporary_name,
    write_synced,
)
from storage.errors import DamagedStoreError, OutputMissingError

_RECORD = "record.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as its record describes it: `files` maps a name to {"bytes", "digest"}, `keep` counts those that stay
    with it as the newest.
    """

    step: int
    path: Path
    files: dict[str, dict[str, Any]]
    keep: int

    def read(self, name: str) -> bytes:
        """Bytes of a file. Raises OutputMissingError for an unknown name, DamagedStoreError if the bytes changed."""
        if name not in self.files:
            raise OutputMissingError(f"checkpoint {self.path.name}: no file {name!r}; it has {', '.join(self.files)}")
        try:
            data = (self.path / name).read_bytes()
        except FileNotFoundError:
            raise DamagedStoreError(f"checkpoint {self.path.name}: {name} is missing") from None
        if digest_bytes(data) != self.files[name]["digest"]:
            raise DamagedStoreError(f"checkpoint {self.path.name}: {name} differs from its record")
        return data

    def problem(self) -> str | None:
        """First damaged file as a phrase, all bytes read; None if the checkpoint is whole."""
        for name in self.files:
            try:
                self.read(name)
            except DamagedStoreError as error:
                return str(error)
        return None


class CheckpointStore:
    """Checkpoints of one training run.

    Args:
        directory: folder for them, made on the first save.
        keep: how many of the newest stay, at least 1; 2 lets a damaged newest one fall back.
    """

    def __init__(self, directory: Path | str, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"checkpoint store: keep is {keep}, must be at least 1")
        self.directory = Path(directory)
        self.keep = keep

    def save(self, step: int, files: Mapping[str, bytes]) -> Checkpoint:
        """Write a checkpoint durably, then drop those older than the newest `keep`.

        Args:
            step: training step, >= 0; an existing checkpoint of the step is replaced.
            files: plain file names -> bytes.
        Raises:
            ValueError: a bad step or file name, no files, or an intact checkpoint of a later step (resume from it;
                damaged later ones are removed).
            DiskFullError: no room; the checkpoints before are intact.
        """
        self._check_request(step, files)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._drop_damaged_after(step)
        final = self.directory / f"step-{step:08d}"
        temporary = temporary_name(final)
        entries = {name: {"bytes": len(files[name]), "digest": digest_bytes(files[name])} for name in sorted(files)}
        try:
            with naming_disk_full(f"checkpoint {final.name}"):
                temporary.mkdir()
                for name in sorted(files):
                    write_synced(temporary / name, bytes(files[name]))
                record = json.dumps({"step": step, "files": entries, "keep": self.keep}, indent=1, sort_keys=True)
                write_synced(temporary / _RECORD, record.encode("utf-8"))
                sync_directory(temporary)
                self._put_in_place(temporary, final)
        except BaseException:
            remove_tree(temporary)
            raise
        saved = Checkpoint(step, final, entries, self.keep)
        self._drop_older(saved)
        for litter in self.directory.glob(f"step-*{TEMPORARY_MARK}*"):  # of killed saves
            remove_tree(litter)
        return saved

    def latest(self) -> Checkpoint | None:
        """Newest checkpoint whose every byte is as recorded; None if there is none.

        Also drops the older ones that its save would have dropped, had it not been killed.
        """
        found = next((found for found in self._readable() if found.problem() is None), None)
        if found is not None:
            self._drop_older(found)
        return found

    def steps(self) -> list[int]:
        """Steps with a readable record, ascending; their bytes are not checked."""
        return sorted(found.step for found in self._readable())

    def _check_request(self, step: int, files: Mapping[str, bytes]) -> None:
        if step < 0:
            raise ValueError(f"checkpoint: step is {step}, must be >= 0")
        bad = [name for name in files if not _NAME.fullmatch(name) or name == _RECORD or TEMPORARY_MARK in name]
        if bad or not files:
            raise ValueError(f"checkpoint of step {step}: file names {bad or 'none given'}; allowed are plain names")

    def _drop_damaged_after(self, step: int) -> None:
        for later in list(self._readable()):
            if later.step > step and later.problem() is None:
                raise ValueError(
                    f"checkpoint of step {step}: {later.path.name} exists and is whole; resume from it, "
                    "or train into another folder"
                )
            if later.step > step:
                self._remove(later.path)

    def _put_in_place(self, temporary: Path, final: Path) -> None:
        """Rename into place; an old checkpoint of the step steps aside first, since a full folder cannot be replaced.

        A kill between the two renames loses that step, and `latest` falls back to the one before.
        """
        aside = temporary_name(final)
        if final.exists():
            os.rename(final, aside)
        os.rename(temporary, final)
        sync_directory(self.directory)
        remove_tree(aside)

    def _readable(self) -> Iterator[Checkpoint]:
        """Checkpoints with a complete record, newest first."""
        for path in sorted(self.directory.glob("step-*"), reverse=True):
            if TEMPORARY_MARK in path.name:
                continue
            try:
                record = json.loads((path / _RECORD).read_bytes())
                yield Checkpoint(int(record["step"]), path, dict(record["files"]), int(record["keep"]))
            except (OSError, ValueError, TypeError, KeyError):
                continue  # torn by a host crash: not a checkpoint

    def _drop_older(self, newest: Checkpoint) -> None:
        """Keep `newest.keep` with it, counting only older ones whose files have their sizes."""
        older = [found for found in self._readable() if found.step < newest.step]
        kept = [found.path for found in older if _sizes_right(found)][: newest.keep - 1]
        for path in self.directory.glob("step-*"):
            if TEMPORARY_MARK not in path.name and path.name < newest.path.name and path not in kept:
                self._remove(path)

    @staticmethod
    def _remove(path: Path) -> None:
        """Rename, then delete: a half-deleted folder must not look like a checkpoint."""
        doomed = temporary_name(path)
        with suppress(FileNotFoundError):  # another process finishes the same save
            os.rename(path, doomed)
        remove_tree(doomed)


def _sizes_right(checkpoint: Checkpoint) -> bool:
    return all(size_problem(checkpoint.path / name, entry["bytes"]) is None for name, entry in checkpoint.files.items())
