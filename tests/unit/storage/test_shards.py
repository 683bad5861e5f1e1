"""Shards: fixed ranges, one writer, exclusive commits, refusals that name the part."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.artifact import payload_digests
from storage.errors import (
    DamagedStoreError,
    FingerprintMismatchError,
    LeaseHeldError,
    LeaseLostError,
    MissingRowError,
)
from storage.lease import is_live
from storage.ledger import LedgerRow, Reason
from storage.shards import PartSet, ShardPlan

PLAN = ShardPlan(num_rows=5, rows_per_shard=2)
PRINT = "a" * 64


@pytest.fixture
def store(tmp_path):
    return tmp_path / "extract" / "demo-aaaaaaaa"


def open_store(store, plan=PLAN, fingerprint=PRINT, **settings):
    return PartSet(store, plan, fingerprint, **settings)


def ledger_of(parts, shard):
    return [LedgerRow(f"c{row}", row, "extract", "ok", seconds=0.5) for row in parts.plan.range_of(shard)]


def stage(parts, shard, text="data"):
    staging = parts.staging(shard)
    (staging / "sub").mkdir()
    (staging / "sub" / "x.bin").write_text(f"{text} of {shard}")
    return staging


def make(parts, *shards, text="data"):
    for shard in shards:
        with parts.claim(shard):
            parts.commit(shard, stage(parts, shard, text), ledger=ledger_of(parts, shard), facts={"n": shard})
    return parts


class TestPlan:
    @given(st.integers(0, 300), st.integers(1, 50))
    def test_ranges_tile_the_rows_in_order(self, num_rows, rows_per_shard):
        plan = ShardPlan(num_rows, rows_per_shard)
        ranges = [plan.range_of(shard) for shard in range(plan.num_shards)]
        assert [row for rows in ranges for row in rows] == list(range(num_rows))
        assert all(plan.shard_of(row) == shard for shard, rows in enumerate(ranges) for row in rows)
        assert all(len(rows) == rows_per_shard for rows in ranges[:-1])

    def test_by_hand(self):
        assert [PLAN.range_of(shard) for shard in range(3)] == [range(2), range(2, 4), range(4, 5)]

    @pytest.mark.parametrize("shard", [-1, 3])
    def test_no_such_shard(self, shard):
        with pytest.raises(IndexError, match="shards 0 to 2"):
            PLAN.range_of(shard)

    @pytest.mark.parametrize("row", [-1, 5])
    def test_no_such_row(self, row):
        with pytest.raises(IndexError, match="rows 0 to 4"):
            PLAN.shard_of(row)

    @pytest.mark.parametrize(("num_rows", "rows_per_shard"), [(-1, 2), (3, 0)])
    def test_bad_plans(self, num_rows, rows_per_shard):
        with pytest.raises(ValueError, match="shard plan"):
            ShardPlan(num_rows, rows_per_shard)


class TestCommit:
    def test_from_pending_to_committed(self, store):
        parts = open_store(store)
        assert (parts.committed(), parts.pending()) == ([], [0, 1, 2])
        make(parts, 2, 0)
        assert (parts.committed(), parts.pending()) == ([0, 2], [1])
        assert (parts.part(2) / "sub/x.bin").read_text() == "data of 2"
        assert parts.record(2).facts == {"n": 2}
        assert parts.record(2).rows == (4, 5)
        assert parts.verify(2) == []
        assert parts.ledger()["row"].to_pylist() == [0, 1, 4]

    def test_a_commit_leaves_no_lease_and_no_litter(self, store):
        make(open_store(store), 0)
        assert sorted(path.name for path in (store / "leases").iterdir()) == [".lock", ".token", "commit.lock"]
        assert [path.name for path in (store / "parts").iterdir()] == ["000000"]
        assert open_store(store).sweep() == []

    def test_the_record_holds_no_absolute_path(self, store):
        parts = open_store(store)
        with parts.claim(0):
            parts.commit(0, stage(parts, 0), ledger=[], facts={"media": str(store), str(store): 1})
        assert str(store.parent) not in (store / "commits/000000.json").read_text()

    def test_payload_does_not_depend_on_time_order_or_attempts(self, store, tmp_path):
        make(open_store(store), 0, 1, 2)
        other = tmp_path / "other"
        parts = open_store(other)
        with parts.claim(1):
            stage(parts, 1, "abandoned")
        make(parts, 2, 1, 0)
        assert payload_digests(store) == payload_digests(other)
        assert payload_digests(store).keys() == {f"parts/00000{n}/sub/x.bin" for n in range(3)}

    def test_work_without_a_claim_is_refused(self, store):
        parts = open_store(store)
        with pytest.raises(LeaseLostError, match=r"part 000000 of extract/demo-aaaaaaaa: not claimed"):
            parts.staging(0)
        with pytest.raises(LeaseLostError, match="not claimed"):
            parts.commit(0, store, ledger=[])

    def test_an_empty_part_is_refused(self, store):
        parts = open_store(store)
        with parts.claim(0), pytest.raises(ValueError, match="holds no file"):
            parts.commit(0, parts.staging(0), ledger=[])
        assert parts.pending() == [0, 1, 2]

    def test_a_ledger_row_of_another_shard_is_refused(self, store):
        parts = open_store(store)
        with parts.claim(0), pytest.raises(ValueError, match=r"ledger row 2 \(clip 'c2'\) is outside its rows 0 to 1"):
            parts.commit(0, stage(parts, 0), ledger=ledger_of(parts, 1))

    def test_facts_must_be_json(self, store):
        parts = open_store(store)
        with parts.claim(0), pytest.raises(ValueError, match="facts must hold JSON values"):
            parts.commit(0, stage(parts, 0), ledger=[], facts={"x": float("nan")})
        assert parts.pending() == [0, 1, 2]

    def test_an_error_under_the_lease_removes_what_was_staged(self, store):
        parts = open_store(store)
        with pytest.raises(ZeroDivisionError), parts.claim(0):
            assert stage(parts, 0).exists() / 0
        assert list((store / "parts").iterdir()) == []
        assert parts.claim(0) is not None


class TestTwoWriters:
    def test_the_second_cannot_claim(self, store):
        one, other = open_store(store), open_store(store)
        with one.claim(0):
            assert other.claim(0) is None
            assert other.claim(1) is not None
        assert other.claim(0) is not None

    def test_a_committed_shard_cannot_be_claimed(self, store):
        make(open_store(store), 0)
        other = open_store(store)
        assert other.claim(0) is None
        assert not is_live(store / "leases/shard-000000.lease")

    def overtake(self, store):
        """(slow PartSet with a staged part, fast PartSet that took its lease over)."""
        slow, fast = open_store(store), open_store(store)
        lease = slow.claim(0)
        staging = stage(slow, 0, "slow")
        beat = lease.path.stat().st_mtime - 61
        os.utime(lease.path, (beat, beat))
        assert fast.claim(0) is not None
        return slow, staging, fast

    def test_the_loser_of_the_race_is_discarded_harmlessly(self, store):
        slow, staging, fast = self.overtake(store)
        assert fast.commit(0, stage(fast, 0, "fast"), ledger=ledger_of(fast, 0)) is True
        record = (store / "commits/000000.json").read_bytes()
        assert slow.commit(0, staging, ledger=ledger_of(slow, 0)) is False
        assert (slow.part(0) / "sub/x.bin").read_text() == "fast of 0"
        assert (store / "commits/000000.json").read_bytes() == record
        assert fast.verify(0) == []
        assert [path.name for path in (store / "parts").iterdir()] == ["000000"]

    def test_a_lost_lease_is_noticed_before_the_commit(self, store):
        slow, staging, fast = self.overtake(store)
        with pytest.raises(LeaseLostError, match="part 000000 of extract/demo-aaaaaaaa"):
            slow.commit(0, staging, ledger=[])
        assert not staging.exists()
        assert fast.committed() == []
        assert fast.commit(0, stage(fast, 0, "fast"), ledger=[]) is True

    def test_tokens_rise(self, store):
        make(open_store(store), 0, 1)
        parts = open_store(store)
        assert parts.record(0).provenance["token"] < parts.record(1).provenance["token"]


LANE = """
import sys
from pathlib import Path
from storage.shards import PartSet, ShardPlan
parts = PartSet(Path(sys.argv[1]), ShardPlan(24, 2), "a" * 64)
print("ready", flush=True)
sys.stdin.readline()
made = []
while pending := parts.pending():
    for shard in pending:
        lease = parts.claim(shard)
        if lease is not None:
            with lease:
                staging = parts.staging(shard)
                (staging / "x").write_text(str(shard))
                if parts.commit(shard, staging, ledger=[]):
                    made.append(shard)
print(*made)
"""


def test_two_runs_at_once_share_the_shards_and_make_each_once(store):
    command = [sys.executable, "-c", LANE, str(store)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[3]}
    lanes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for lane in lanes:
        lane.stdout.readline()
    for lane in lanes:
        lane.stdin.write("go\n")
        lane.stdin.flush()
    made = [int(shard) for lane in lanes for shard in lane.communicate()[0].split()]
    assert [lane.returncode for lane in lanes] == [0, 0]
    assert sorted(made) == list(range(12))
    parts = PartSet.open(store)
    assert parts.pending() == []
    assert [problem for shard in range(12) for problem in parts.verify(shard)] == []


class TestRefusals:
    def test_a_missing_part_is_named_with_its_rows(self, store):
        parts = make(open_store(store), 0)
        with pytest.raises(
            MissingRowError, match=r"part 000001 of extract/demo-aaaaaaaa \(rows 2 to 3\): never committed"
        ):
            parts.part(1)

    def test_a_part_without_its_record_does_not_exist(self, store):
        parts = make(open_store(store), 0, 1)
        (store / "commits/000001.json").unlink()
        assert parts.committed() == [0]
        with pytest.raises(MissingRowError):
            parts.part(1)

    @pytest.mark.parametrize(("name", "size"), [("parts/000000/sub/x.bin", 0), ("ledger/000000.parquet", 10)])
    def test_a_truncated_file_is_refused_and_remade(self, store, name, size):
        parts = make(open_store(store), 0, 1, 2)
        os.truncate(store / name, size)
        for open_it in (lambda: parts.part(0), parts.check_all, lambda: parts.verify(0)):
            with pytest.raises(
                DamagedStoreError, match=f"part 000000 of extract/demo-aaaaaaaa: {name} has {size} bytes"
            ):
                open_it()
        assert parts.pending() == [0]
        assert parts.ledger()["row"].to_pylist() == [2, 3, 4]
        make(parts, 0)
        assert parts.check_all() == [0, 1, 2]
        assert parts.verify(0) == []

    def test_a_deleted_file_is_refused(self, store):
        parts = make(open_store(store), 0)
        shutil.rmtree(store / "parts/000000/sub")
        with pytest.raises(DamagedStoreError, match=r"parts/000000/sub/x\.bin is missing"):
            parts.part(0)

    def test_a_torn_record_is_refused_and_remade(self, store):
        parts = make(open_store(store), 0, 1, 2)
        path = store / "commits/000001.json"
        whole = path.read_bytes()
        for cut in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:cut])
            assert parts.pending() == [1]
            with pytest.raises(DamagedStoreError, match=r"000001\.json: not a complete record"):
                parts.check_all()
        assert PartSet.open(store).plan == PLAN
        make(parts, 1)
        assert parts.check_all() == [0, 1, 2]

    def test_flipped_bits_are_found_by_verify_and_in_the_ledger(self, store):
        parts = make(open_store(store), 0)
        for name in ("parts/000000/sub/x.bin", "ledger/000000.parquet"):
            data = bytearray((store / name).read_bytes())
            data[4] ^= 1
            (store / name).write_bytes(data)
        assert [problem.split(":")[0] for problem in parts.verify(0)] == [
            "parts/000000/sub/x.bin",
            "ledger/000000.parquet",
        ]
        with pytest.raises(DamagedStoreError, match=r"ledger/000000\.parquet differs"):
            parts.ledger()

    @pytest.mark.parametrize(
        ("plan", "fingerprint", "message"),
        [
            (PLAN, "b" * 64, "its commit record has fingerprint aaaa"),
            (ShardPlan(6, 2), PRINT, "its commit record has num_rows 5, this run has 6"),
            (ShardPlan(5, 3), PRINT, "its commit record has rows_per_shard 2, this run has 3"),
        ],
    )
    def test_parts_of_another_recipe_are_refused_everywhere(self, store, plan, fingerprint, message):
        make(open_store(store), 0)
        other = open_store(store, plan, fingerprint)
        for use in (other.committed, other.pending, other.check_all, lambda: other.part(0), lambda: other.claim(0)):
            with pytest.raises(FingerprintMismatchError, match=message):
                use()
        assert not is_live(store / "leases/shard-000000.lease")

    def test_open_reads_the_plan_from_the_records(self, store):
        make(open_store(store), 1)
        assert (PartSet.open(store).plan, PartSet.open(store).fingerprint) == (PLAN, PRINT)
        with pytest.raises(FingerprintMismatchError):
            PartSet.open(store, "b" * 64)
        with pytest.raises(MissingRowError, match="extract/nowhere: no shard was committed"):
            PartSet.open(store.parent / "nowhere")


class TestSweep:
    def test_removes_litter_of_the_dead_and_spares_the_living(self, store):
        parts = make(open_store(store), 0)
        living = open_store(store)
        with living.claim(1):
            staged = stage(living, 1)
            dead = [store / "parts/000002.tmp-1", store / "parts/000002"]
            for folder in dead:
                folder.mkdir()
                (folder / "x").write_text("x")
            (store / "commits/000002.json.tmp-1").write_text("{")
            (store / "ledger/000002.parquet").write_text("")
            (store / "parts/notes.txt").write_text("not ours")
            assert len(parts.sweep()) == 4
            assert staged.exists()
            assert parts.part(0).exists()
            assert sorted(path.name for path in (store / "parts").iterdir()) == ["000000", staged.name, "notes.txt"]

    def test_an_uncommitted_part_is_replaced_by_the_next_writer(self, store):
        orphan = store / "parts/000000"
        orphan.mkdir(parents=True)
        (orphan / "stale.bin").write_text("stale")
        parts = make(open_store(store), 0)
        assert [path.name for path in parts.part(0).iterdir()] == ["sub"]


class TestReopen:
    def test_a_reopened_shard_is_made_again(self, store):
        parts = make(open_store(store), 0, 1)
        parts.reopen(0)
        assert parts.pending() == [0, 2]
        make(parts, 0, text="again")
        assert (parts.part(0) / "sub/x.bin").read_text() == "again of 0"

    def test_a_shard_in_work_is_not_reopened(self, store):
        parts = open_store(store)
        with parts.claim(0), pytest.raises(LeaseHeldError):
            open_store(store).reopen(0)

    def test_a_shard_that_was_never_made_stays_pending(self, store):
        parts = open_store(store)
        parts.reopen(0)
        assert parts.pending() == [0, 1, 2]


def test_ledger_holds_what_failed(store):
    parts = open_store(store)
    with parts.claim(0):
        failed = LedgerRow("c1", 1, "extract", "failed", Reason.TIMEOUT, "took 60 s", attempts=3, seconds=60.0)
        parts.commit(0, stage(parts, 0), ledger=[ledger_of(parts, 0)[0], failed])
    assert parts.ledger().to_pylist()[1] == {
        "clip_id": "c1",
        "row": 1,
        "stage": "extract",
        "status": "failed",
        "reason": "timeout",
        "message": "took 60 s",
        "attempts": 3,
        "seconds": 60.0,
    }
    assert json.loads((store / "commits/000000.json").read_text())["fingerprint"] == PRINT
