"""Leases: one live writer per name, and a dead one never blocks.

A lease is a small JSON file that names its owner; its mtime is the heartbeat. It is created by hard link (fails on an
existing name) while a `flock` on the folder's `.lock` is held, and takeover and heartbeat hold that lock too, so a lease
that was renewed a moment ago cannot be stolen. Prefect's FileSystemLockManager has neither heartbeat nor TTL and hangs
for ever after a kill; that is why this exists.

- Owner on this host (same boot id and pid namespace) whose process is gone, or whose pid now belongs to a process with
  another start time: taken over at once.
- Owner elsewhere: taken over when its heartbeat is older than its TTL. Age is measured on the file server's clock.
- Every acquisition in a folder gets a higher fencing token; the loser of a takeover sees a foreign lease and stops.
"""

import fcntl
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from storage.durable import TEMPORARY_MARK, temporary_name
from storage.errors import LeaseHeldError, LeaseLostError

DEFAULT_TTL_SECONDS = 60.0
_BEATS_PER_TTL = 3  # two beats may be lost to a busy disk before anybody takes over


@dataclass(frozen=True)
class Owner:
    """Who holds a lease. `start_ticks` (clock ticks since boot) tells a reused pid from the process that took it."""

    subject: str
    host: str
    pid: int
    start_ticks: int
    boot_id: str
    pid_namespace: str
    token: int
    nonce: str
    ttl_seconds: float

    def same_host(self) -> bool:
        return (self.boot_id, self.pid_namespace) == (
            _boot_id(),
            _pid_namespace(),
        ) and self.host == socket.gethostname()

    def surely_dead(self) -> bool:
        """True only if this host can tell that the owning process is gone."""
        return self.same_host() and _process_start(self.pid) != self.start_ticks


@contextmanager
def locked(path: Path) -> Iterator[float]:
    """Hold an exclusive flock on `path`, which the kernel drops when the process dies; yields the time in seconds.

    The time is the mtime the file system just gave the lock file, so that hosts with skewed clocks agree on ages.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.utime(handle.fileno())
        yield os.fstat(handle.fileno()).st_mtime


class Lease:
    """A held lease, renewed by a thread until released. Use as a context manager or call `release`.

    Make one with `Lease.acquire`. Attributes: path, owner (with the fencing token).
    """

    def __init__(self, path: Path, owner: Owner, on_release: Callable[[], None] | None = None) -> None:
        self.path = path
        self.owner = owner
        self._on_release = on_release
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {owner.subject}", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls,
        path: Path,
        *,
        subject: str,
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
        on_release: Callable[[], None] | None = None,
    ) -> "Lease":
        """Take the lease at `path` or raise at once; it never waits.

        Args:
            path: the lease file; its folder is made.
            subject: what is leased, for messages.
            ttl_seconds: after this long without a heartbeat others may take over.
            on_release: called once when the lease is released.
        Raises:
            LeaseHeldError: a live owner holds it; names its host, pid and the heartbeat's age.
        """
        if ttl_seconds <= 0:
            raise ValueError(f"lease on {subject}: ttl_seconds is {ttl_seconds}, must be positive")
        with locked(_lock_of(path)) as now:
            _clear_stale(path, subject, now)
            owner = _this_process(subject, _next_token(path.parent), ttl_seconds)
            temporary = temporary_name(path)
            try:
                temporary.write_text(json.dumps(asdict(owner)), encoding="utf-8")
                os.link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return cls(path, owner, on_release)

    @property
    def token(self) -> int:
        """Fencing token: higher than that of every earlier lease in the folder."""
        return self.owner.token

    def renew(self) -> None:
        """One heartbeat. Raises LeaseLostError when somebody else owns the lease by now."""
        with locked(_lock_of(self.path)):
            self._require_ours()
            os.utime(self.path)

    def check(self) -> None:
        """Raise LeaseLostError unless this lease is still ours; call it right before committing."""
        with locked(_lock_of(self.path)):
            self._require_ours()

    def release(self) -> None:
        """Stop the heartbeat and remove the lease if it is still ours; a second call does nothing, nor does a fork's."""
        if self._stop.is_set() or os.getpid() != self.owner.pid:
            return
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        with locked(_lock_of(self.path)):
            if _nonce_at(self.path) == self.owner.nonce:
                self.path.unlink(missing_ok=True)
        if self._on_release is not None:
            self._on_release()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _require_ours(self) -> None:
        if self._lost or self._stop.is_set() or _nonce_at(self.path) != self.owner.nonce:
            self._lost = True
            holder = read_owner(self.path)
            now_held = f"held by pid {holder.pid} on {holder.host}" if holder else "held by nobody"
            raise LeaseLostError(
                f"{self.owner.subject}: the lease (token {self.token}) was lost and is now {now_held}; "
                "the work done under it is discarded and must not be committed"
            )

    def _beat(self) -> None:
        while not self._stop.wait(self.owner.ttl_seconds / _BEATS_PER_TTL):
            try:
                self.renew()
            except LeaseLostError:
                return
            except OSError:
                continue  # a passing fault of the file system: the next beat tries again, and check() decides


def read_owner(path: Path) -> Owner | None:
    """Owner named in a lease file; None if there is no lease or its text is torn (host crash)."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def sweep_leases(folder: Path) -> None:
    """Remove temporary files of killed processes: they are made under the lock, so under the lock all are litter."""
    if folder.is_dir():
        with locked(folder / ".lock"):
            for path in folder.glob(f"*{TEMPORARY_MARK}*"):
                path.unlink(missing_ok=True)


def is_live(path: Path) -> bool:
    """True while a lease at `path` must be respected."""
    with locked(_lock_of(path)) as now:
        return _stale_reason(path, now) is None


def _clear_stale(path: Path, subject: str, now: float) -> None:
    """Remove a stale lease (lock held) or raise LeaseHeldError for a live one."""
    if _stale_reason(path, now) is None:
        owner = read_owner(path)
        holder = f"pid {owner.pid} on host {owner.host}" if owner else "an unknown owner"
        age = max(0.0, now - path.stat().st_mtime)
        ttl = owner.ttl_seconds if owner else DEFAULT_TTL_SECONDS
        raise LeaseHeldError(
            f"{subject}: held by {holder}, last heartbeat {age:.0f} s ago; wait for it, or stop that process: "
            f"its lease expires {ttl:.0f} s after the last heartbeat, at once if it died on this host"
        )
    path.unlink(missing_ok=True)


def _stale_reason(path: Path, now: float) -> str | None:
    try:
        age = now - path.stat().st_mtime
    except FileNotFoundError:
        return "absent"
    owner = read_owner(path)
    if owner is not None and owner.surely_dead():
        return "owner is dead"
    ttl = owner.ttl_seconds if owner else DEFAULT_TTL_SECONDS
    return "no heartbeat" if age > ttl else None


def _lock_of(path: Path) -> Path:
    return path.with_name(".lock")


def _nonce_at(path: Path) -> str | None:
    owner = read_owner(path)
    return owner.nonce if owner else None


def _next_token(folder: Path) -> int:
    """Count acquisitions of a folder (lock held)."""
    counter = folder / ".token"
    try:
        token = int(counter.read_text()) + 1
    except (FileNotFoundError, ValueError):
        token = 1
    temporary = temporary_name(counter)
    temporary.write_text(str(token))
    os.replace(temporary, counter)
    return token


def _this_process(subject: str, token: int, ttl_seconds: float) -> Owner:
    start = _process_start(os.getpid())
    assert start is not None, "this process exists"
    return Owner(
        subject=subject,
        host=socket.gethostname(),
        pid=os.getpid(),
        start_ticks=start,
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        token=token,
        nonce=uuid.uuid4().hex,
        ttl_seconds=float(ttl_seconds),
    )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # no procfs: host name and pid have to do


def _pid_namespace() -> str:
    """Containers on one kernel see different pids: a pid means something only inside its namespace."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _process_start(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot; None if it is gone or a zombie.

    Without procfs every live process reads as 0, and only a vanished pid counts as dead.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _start_without_procfs(pid)
    fields = text.rpartition(")")[2].split()  # the command name before it may hold spaces and brackets
    return None if fields[0] in "ZX" else int(fields[19])


def _start_without_procfs(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0
