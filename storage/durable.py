"""Bytes to disk so that a name holds either nothing or everything.

Every file is written under a temporary name (`<name>.tmp-<random>`), fsynced, renamed, and its directory fsynced: after
`kill -9` the name is absent or complete, and after a host crash too. zarr 3.1 and pyarrow never fsync, so trees they
write are synced by `sync_tree` before a record speaks of them.
"""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.errors import DiskFullError

TEMPORARY_MARK = ".tmp-"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def naming_disk_full(subject: str) -> Iterator[None]:
    """Turn "no space left" inside the block into DiskFullError that names `subject` (an artifact, a file)."""
    try:
        yield
    except DiskFullError:
        raise
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        reason = os.strerror(error.errno)
        raise DiskFullError(
            error.errno,
            f"{subject}: could not be written ({reason}); what was committed before is intact: free space and run again",
        ) from error


def temporary_name(path: Path) -> Path:
    """A fresh sibling of `path` that readers and records ignore."""
    return path.with_name(f"{path.name}{TEMPORARY_MARK}{uuid.uuid4().hex}")


def write_synced(path: Path, data: bytes) -> None:
    """Create `path` (it must not exist) with `data` and fsync it; the caller makes the name durable."""
    with open(path, "xb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def replace_file(path: Path, data: bytes, *, subject: str | None = None) -> None:
    """Make `path` hold exactly `data`, atomically and durably, whatever it held before.

    Raises:
        DiskFullError: no room; `path` still holds what it held. `subject` (default: the file's name) is named in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with naming_disk_full(subject or path.name):
            write_synced(temporary, data)
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def publish_once(path: Path, data: bytes, *, subject: str | None = None) -> bool:
    """Create `path` with `data` unless the name is taken; exactly one of several contenders gets True.

    A hard link is used because it fails on an existing name, where a rename would silently replace it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with naming_disk_full(subject or path.name):
            write_synced(temporary, data)
            os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def sync_directory(directory: Path) -> None:
    """fsync a directory, so that names created or renamed in it survive a host crash."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """fsync every file and directory below and including `directory`."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            sync_directory(Path(folder, name))  # fsync needs only a descriptor: the same call serves files
        sync_directory(Path(folder))


def remove_tree(directory: Path) -> None:
    """Remove a directory that another process may be removing too; absent is fine."""
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


def tree_files(directory: Path) -> list[str]:
    """Relative posix paths of all files below `directory`, sorted."""
    return sorted(
        Path(folder, name).relative_to(directory).as_posix()
        for folder, _, names in os.walk(directory)
        for name in names
    )


def digest_file(path: Path | str) -> str:
    """Content digest of a file, "sha256:<64 hex>"."""
    with open(path, "rb") as handle:
        return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}"


def digest_bytes(data: bytes) -> str:
    """Content digest of bytes, the same form as `digest_file`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def file_entry(path: Path) -> dict[str, int | str]:
    """What a record says of a file: {"bytes": size, "digest": "sha256:..."}."""
    return {"bytes": path.stat().st_size, "digest": digest_file(path)}
