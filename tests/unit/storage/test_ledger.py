"""The failure ledger."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import DamagedStoreError
from storage.ledger import SCHEMA, LedgerRow, Reason, failed_rows, read_ledger, write_ledger

ROWS = [
    LedgerRow("a", 0, "sample", "ok", seconds=1.5),
    LedgerRow('b "q"\n', 1, "sample", "failed", Reason.TIMEOUT, "60 s, \u00e9\U0001f600", 2, 60.0),
    LedgerRow("c", 2, "sample", "excluded", Reason.EMPTY_CAPTION, "no text"),
    LedgerRow("d", -1, "corpora", "excluded", Reason.DUPLICATE_ID, "lines 3 and 9"),
]


def test_round_trip(tmp_path):
    path = tmp_path / "ledger.parquet"
    write_ledger(path, ROWS)
    table = read_ledger(path)
    assert table.schema.equals(SCHEMA)
    assert [
        LedgerRow(**{**row, "reason": row["reason"] and Reason(row["reason"])}) for row in table.to_pylist()
    ] == ROWS
    assert [found.name for found in tmp_path.iterdir()] == ["ledger.parquet"]


def test_failed_rows_are_those_not_usable(tmp_path):
    write_ledger(tmp_path / "l.parquet", ROWS)
    assert failed_rows(read_ledger(tmp_path / "l.parquet")) == {1, 2}


def test_an_empty_ledger_is_a_ledger(tmp_path):
    write_ledger(tmp_path / "l.parquet", [])
    assert len(read_ledger(tmp_path / "l.parquet")) == 0


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        ("bad", None, "allowed are ok, failed, excluded"),
        ("failed", None, "needs a reason"),
        ("ok", Reason.EMPTY, "an ok row has none"),
        ("failed", "whatever", "allowed are missing, unreadable"),
    ],
)
def test_rows_that_make_no_sense_are_refused(status, reason, message):
    with pytest.raises(ValueError, match=f"clip 'v':.*{message}"):
        LedgerRow("v", 0, "sample", status, reason)


def test_reasons_are_the_agreed_codes():
    agreed = """missing unreadable timeout crashed truncated empty too_short no_frames empty_caption duplicate_id
        outside_root bad_box non_finite upstream_failed"""
    assert list(Reason) == agreed.split()


def test_damage_is_named(tmp_path):
    path = tmp_path / "l.parquet"
    write_ledger(path, ROWS)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DamagedStoreError, match=r"ledger l\.parquet: not readable"):
        read_ledger(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(DamagedStoreError, match=r"columns are \['x'\]"):
        read_ledger(path)
    with pytest.raises(FileNotFoundError):
        read_ledger(tmp_path / "none.parquet")
