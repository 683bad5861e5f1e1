"""Frame store: chosen frames come back bit for bit, or not at all."""

import dataclasses
import io
import os

import numpy as np
import pytest
from PIL import Image

from storage.artifact import payload_digests
from storage.errors import DamagedStoreError, FailedRowError, FingerprintMismatchError, MissingRowError
from storage.frame_store import FrameRow, FrameStore, FrameStoreWriter
from storage.jpeg import jpeg_size_px
from storage.ledger import LedgerRow, Reason
from storage.region_store import RegionStore
from storage.shards import PartSet, ShardPlan

PLAN = ShardPlan(num_rows=25, rows_per_shard=20)
PRINT = "a" * 64
FAILED, FORGOTTEN = 3, 4


def jpeg(seed, size_px=(32, 24), **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (size_px[1], size_px[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def frame_row(row, num_frames=2):
    return FrameRow(
        row=row,
        clip_id=f'clip "{row}"\n\u00e9',
        frame_indices=[10 * row + frame for frame in range(num_frames)],
        frame_seconds=[row + frame / 3 for frame in range(num_frames)],
        jpegs=[jpeg((row, frame)) for frame in range(num_frames)],
        original_size_px=(640, 480),
        reader="pyav",
        num_source_frames=300,
        size_px=(32, 24),
    )


def write(store, shards=(0, 1), fingerprint=PRINT):
    parts = PartSet(store, PLAN, fingerprint)
    for shard in shards:
        with parts.claim(shard):
            writer, ledger = FrameStoreWriter(staging := parts.staging(shard)), []
            for row in PLAN.range_of(shard):
                if row == FAILED:
                    ledger.append(LedgerRow(f"clip {row}", row, "sample", "failed", Reason.TRUNCATED, "half a file"))
                elif row != FORGOTTEN:
                    writer.add(frame_row(row, 1 + row % 2))
            writer.close()
            parts.commit(shard, staging, ledger=ledger)
    return store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sample" / "demo-aaaaaaaa"


USABLE = [row for row in range(25) if row not in (FAILED, FORGOTTEN)]


class TestReading:
    def test_rows_come_back_as_written_in_any_order(self, path):
        store = FrameStore(write(path))
        assert store.num_rows == 25
        for row in (24, 0, 19, 20, 5, 16, 15):
            assert store.read(row) == frame_row(row, 1 + row % 2)

    def test_iterating_gives_usable_rows_in_order(self, path):
        assert list(FrameStore(write(path)).rows()) == [frame_row(row, 1 + row % 2) for row in USABLE]

    def test_the_plan_is_there_without_frames(self, path):
        plan = FrameStore(write(path)).plan()
        assert plan["row"].to_pylist() == USABLE
        assert plan["frame_indices"].to_pylist()[1] == [10, 11]
        assert set(plan["original_width_px"].to_pylist()) == {640}
        assert (set(plan["width_px"].to_pylist()), set(plan["height_px"].to_pylist())) == ({32}, {24})

    def test_the_stored_size_is_read_from_the_jpeg(self, path):
        parts = PartSet(path, ShardPlan(1, 1), PRINT)
        with parts.claim(0):
            writer = FrameStoreWriter(staging := parts.staging(0))
            writer.add(dataclasses.replace(frame_row(0), size_px=None))
            writer.close()
            parts.commit(0, staging, ledger=[])
        assert FrameStore(path).read(0).size_px == (32, 24)

    def test_equal_rows_give_equal_bytes(self, path, tmp_path):
        assert payload_digests(write(path)) == payload_digests(write(tmp_path / "again", shards=(1, 0)))


class TestRefusals:
    def test_a_failed_row_gives_its_reason(self, path):
        where = r"clip 'clip 3' \(row 3\) in shard 0 of sample/demo-aaaaaaaa"
        with pytest.raises(FailedRowError, match=f"{where}: failed in stage 'sample', truncated: half a file"):
            FrameStore(write(path)).read(FAILED)

    def test_a_row_that_was_never_written(self, path):
        with pytest.raises(MissingRowError, match="row 4 in shard 0 of sample/demo-aaaaaaaa: was never written"):
            FrameStore(write(path)).read(FORGOTTEN)

    def test_a_row_of_an_uncommitted_part(self, path):
        store = FrameStore(write(path, shards=[0]))
        with pytest.raises(MissingRowError, match=r"part 000001 of sample/demo-aaaaaaaa .*never committed"):
            store.read(20)
        with pytest.raises(MissingRowError):
            list(store.rows())
        with pytest.raises(IndexError, match="rows 0 to 24"):
            store.read(25)

    def test_another_recipe(self, path):
        with pytest.raises(FingerprintMismatchError):
            FrameStore(write(path), "b" * 64)

    @pytest.mark.parametrize("name", ["plan.parquet", "frames.parquet"])
    @pytest.mark.parametrize(
        "damage", [os.unlink, lambda path: os.truncate(path, 0), lambda path: os.truncate(path, 99)]
    )
    def test_a_missing_empty_or_truncated_file_is_refused_at_open(self, path, name, damage):
        damage(write(path) / "parts/000001" / name)
        with pytest.raises(DamagedStoreError, match=f"part 000001 of sample/demo-aaaaaaaa: parts/000001/{name}"):
            FrameStore(path)

    def test_a_part_without_these_files_is_no_frame_store(self, path):
        parts = PartSet(path, ShardPlan(1, 1), PRINT)
        with parts.claim(0):
            staging = parts.staging(0)
            (staging / "x").write_text("x")
            parts.commit(0, staging, ledger=[])
        with pytest.raises(DamagedStoreError, match="holds x; this is no frame store"):
            FrameStore(path).read(0)
        with pytest.raises(DamagedStoreError, match="holds x; this is no region store"):
            RegionStore(path)

    @pytest.mark.parametrize("name", ["plan.parquet", "frames.parquet"])
    def test_a_flipped_bit_anywhere_raises_or_changes_nothing(self, path, name):
        file = write(path, shards=[1]) / "parts/000001" / name
        whole = file.read_bytes()
        expected = [frame_row(row, 1 + row % 2) for row in PLAN.range_of(1)]
        found = 0
        for place in sorted({*range(0, len(whole), 307), *range(len(whole) - 400, len(whole), 7), 0, 5}):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
            try:
                assert [FrameStore(path).read(row) for row in PLAN.range_of(1)] == expected
            except DamagedStoreError:
                found += 1
        assert found > 20


class TestWriting:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"jpegs": []}, "2 indices, 2 times and 0 JPEGs"),
            ({"frame_seconds": [0.5]}, "2 indices, 1 times and 2 JPEGs"),
            ({"jpegs": [], "frame_indices": [], "frame_seconds": []}, "a clip without frames is a failed clip"),
            ({"jpegs": [b"", b""]}, "not a JPEG"),
            ({"jpegs": [jpeg(0), jpeg(1, (16, 24))]}, "must be of one size"),
            ({"size_px": (24, 32)}, "must be of one size"),
            ({"row": 2}, "written after row 2; rows of a part must ascend"),
        ],
    )
    def test_bad_rows_are_refused(self, tmp_path, change, message):
        writer = FrameStoreWriter(tmp_path)
        writer.add(frame_row(2))
        with pytest.raises(ValueError, match=message):
            writer.add(dataclasses.replace(frame_row(7), **change))
        writer.close()


class TestJpegSize:
    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}, {"comment": b"\xff\xc0" * 50}])
    def test_of_real_files(self, options):
        assert jpeg_size_px(jpeg(1, (61, 17), **options)) == (61, 17)

    def test_padding_before_a_marker(self):
        data = jpeg(1)
        assert jpeg_size_px(data[:2] + b"\xff\xff" + data[2:]) == (32, 24)

    @pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\x89PNG....", jpeg(1)[:100], b"\xff\xd8" + b"\x00" * 20])
    def test_no_jpeg(self, data):
        with pytest.raises(ValueError, match="JPEG"):
            jpeg_size_px(data)
