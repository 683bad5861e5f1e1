"""Leases: one live writer, dead owners never block, a lost lease is noticed."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage.errors import LeaseHeldError, LeaseLostError
from storage.lease import Lease, is_live, read_owner, sweep_leases

REPOSITORY = Path(__file__).parents[3]
HOLDER = """
import sys
from pathlib import Path
from storage.lease import Lease
lease = Lease.acquire(Path(sys.argv[1]), subject="part 7", ttl_seconds=3600)
print(lease.token, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "leases" / "x.lease"


@pytest.fixture
def holder(path):
    """A real other process that holds the lease with an hour to live."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def acquire(path, **settings):
    return Lease.acquire(path, subject="part 7", **settings)


def age(path, seconds):
    """Make the last heartbeat look `seconds` old."""
    beat = path.stat().st_mtime - seconds
    os.utime(path, (beat, beat))


def rewrite(path, **changes):
    """Change what the lease file says of its owner without touching the heartbeat."""
    beat = path.stat().st_mtime
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    os.utime(path, (beat, beat))


def test_held_then_free(path):
    with acquire(path) as lease:
        assert is_live(path)
        lease.check()
        with pytest.raises(
            LeaseHeldError, match=rf"part 7: held by pid {os.getpid()} on host .*, last heartbeat 0 s ago"
        ):
            acquire(path)
    assert not path.exists()
    assert not is_live(path)
    acquire(path).release()


def test_a_live_process_is_respected_even_with_the_file_server_s_clock(path, holder):
    with pytest.raises(LeaseHeldError, match=f"pid {holder.pid} "):
        acquire(path)


def test_a_killed_owner_on_this_host_is_taken_over_at_once(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.exists()
    with acquire(path) as lease:
        assert lease.token == 2
        assert read_owner(path).pid == os.getpid()


def test_a_zombie_owner_is_dead(path, holder):
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet reaped
    acquire(path).release()


def test_a_reused_pid_is_not_the_owner(path):
    lease = acquire(path)
    rewrite(path, start_ticks=lease.owner.start_ticks + 1)
    acquire(path).release()
    lease.release()


@pytest.mark.parametrize("elsewhere", [{"boot_id": "other"}, {"host": "other"}, {"pid_namespace": "pid:[1]"}])
def test_an_owner_elsewhere_keeps_its_lease_until_the_heartbeat_is_too_old(path, elsewhere):
    lease = acquire(path, ttl_seconds=100)
    rewrite(path, pid=2**22 + 1, **elsewhere)  # no such pid here, but that says nothing about another host
    with pytest.raises(LeaseHeldError):
        acquire(path)
    age(path, 99)
    with pytest.raises(LeaseHeldError, match="last heartbeat 99 s ago"):
        acquire(path)
    age(path, 2)
    acquire(path).release()
    lease.release()


def test_the_heartbeat_keeps_it(path):
    lease = acquire(path, ttl_seconds=100)
    age(path, 99)
    lease.renew()
    age(path, 2)
    with pytest.raises(LeaseHeldError):
        acquire(path)
    lease.release()


def test_the_thread_beats(path):
    beaten = threading.Event()

    class Observed(Lease):
        def renew(self):
            super().renew()
            beaten.set()

    lease = Observed.acquire(path, subject="x", ttl_seconds=0.03)
    assert beaten.wait(timeout=30)
    lease.release()


def test_the_slow_owner_notices_a_takeover(path):
    slow = acquire(path, ttl_seconds=100)
    age(path, 101)
    fast = acquire(path)
    assert fast.token == slow.token + 1
    for _ in range(2):
        with pytest.raises(
            LeaseLostError, match=rf"part 7: the lease \(token 1\) was lost and is now held by pid {os.getpid()}"
        ):
            slow.check()
    with pytest.raises(LeaseLostError):
        slow.renew()
    slow.release()
    fast.check()  # the loser's release did not touch the winner's lease
    fast.release()


def test_a_lease_file_that_vanished_is_lost(path):
    lease = acquire(path)
    path.unlink()
    with pytest.raises(LeaseLostError, match="held by nobody"):
        lease.check()
    lease.release()


def test_a_released_lease_allows_nothing(path):
    lease = acquire(path)
    lease.release()
    lease.release()
    with pytest.raises(LeaseLostError):
        lease.check()


def test_a_torn_lease_file_expires_by_age(path):
    path.parent.mkdir()
    path.write_bytes(b"")
    with pytest.raises(LeaseHeldError, match="an unknown owner"):
        acquire(path)
    age(path, 61)
    acquire(path).release()


def test_a_fork_cannot_release_its_parent_s_lease(path):
    code = (
        "import os, sys; from pathlib import Path; from storage.lease import Lease\n"
        "lease = Lease.acquire(Path(sys.argv[1]), subject='x')\n"
        "child = os.fork()\n"
        "lease.release() if child == 0 else os.waitpid(child, 0)\n"
        "os._exit(0) if child == 0 else lease.check()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=REPOSITORY)


def test_release_runs_its_callback_once(path):
    calls = []
    lease = acquire(path, on_release=lambda: calls.append(1))
    lease.release()
    lease.release()
    assert calls == [1]


def test_tokens_rise_over_all_leases_of_a_folder(path):
    tokens = []
    for name in ("a", "b", "a"):
        with acquire(path.with_name(name)) as lease:
            tokens.append(lease.token)
    assert tokens == [1, 2, 3]


def test_contenders_for_a_stale_lease_get_exactly_one_winner(path):
    stale = acquire(path, ttl_seconds=100)
    age(path, 101)
    won, lost = [], []
    barrier = threading.Barrier(8)

    def contend():
        barrier.wait()
        try:
            won.append(acquire(path))
        except LeaseHeldError as error:
            lost.append(error)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    won[0].check()
    won[0].release()
    stale.release()


def test_sweep_removes_temporary_files_only(path):
    lease = acquire(path)
    (path.parent / "x.lease.tmp-1").write_text("{")
    sweep_leases(path.parent)
    assert sorted(found.name for found in path.parent.iterdir()) == [".lock", ".token", "x.lease"]
    lease.release()
    sweep_leases(path.parent / "nowhere")


def test_a_ttl_must_be_positive(path):
    with pytest.raises(ValueError, match="ttl_seconds is 0"):
        acquire(path, ttl_seconds=0)
