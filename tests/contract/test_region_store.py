"""What every region store must do, whatever the type of its features: one class, a subclass per backend."""

import os
import pickle
import shutil

import numpy as np
import pytest
import zarr

from storage.artifact import payload_digests
from storage.errors import DamagedStoreError, FailedRowError, FingerprintMismatchError, MissingRowError
from storage.ledger import LedgerRow, Reason
from storage.region_store import ARRAYS, FrameRegions, RegionStore, RegionStoreSpec, RegionStoreWriter
from storage.shards import PartSet, ShardPlan

PRINT = "a" * 64
FRAMES, REGIONS, DIM = 3, 4, 5
FAILED = 2  # row that failed
SHORT = 4  # row with one frame
PLAN = ShardPlan(num_rows=11, rows_per_shard=6)
SMALL = ("boxes", "scores", "class_ids", "attribute_ids", "attribute_scores")


def frame_regions(row, frame):
    """1 to REGIONS regions with values that follow from row and frame alone."""
    rng = np.random.default_rng((row, frame))
    count = 1 + (row + frame) % REGIONS
    corners = rng.uniform(0, 50, (count, 2))
    return FrameRegions(
        boxes=np.concatenate([corners, corners + rng.uniform(1, 50, (count, 2))], axis=1).astype(np.float32),
        scores=rng.uniform(0, 1, count).astype(np.float32),
        class_ids=rng.integers(0, 1600, count),
        attribute_ids=rng.integers(-1, 400, count),
        attribute_scores=rng.uniform(0, 1, count).astype(np.float32),
        features=rng.normal(size=(count, DIM)).astype(np.float32) * (rng.uniform(size=(count, DIM)) > 0.5),
        frame_seconds=row + frame / 7,
        image_size_px=(640 + row, 480 + frame),
        whole_image=count == 1,
    )


def clip(row):
    return [frame_regions(row, frame) for frame in range(1 if row == SHORT else FRAMES)]


class RegionStoreContract:
    """The contract. A backend sets `dtype`."""

    dtype: str

    @pytest.fixture(autouse=True)
    def _small_zarr_shards(self, monkeypatch):
        """4 clips a Zarr shard instead of floor(1024 / frames), so that a part has several and a part-filled one."""
        monkeypatch.setattr(RegionStoreSpec, "clips_per_zarr_shard", 4)

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "extract" / "demo-aaaaaaaa"

    @pytest.fixture
    def stored(self, path, tmp_path_factory):
        """A store of both parts at `path`; written once per backend, then copied (syncing takes most of the time)."""
        master = tmp_path_factory.getbasetemp() / f"regions-{self.dtype}"
        if not master.exists():
            self.write(master / "extract" / path.name)
        shutil.copytree(master / "extract" / path.name, path)
        return path

    @pytest.fixture
    def half_stored(self, stored):
        """The same with part 1 uncommitted."""
        (stored / "commits/000001.json").unlink()
        shutil.rmtree(stored / "parts/000001")
        return stored

    @property
    def spec(self):
        return RegionStoreSpec(FRAMES, REGIONS, DIM, self.dtype)

    def write(self, path, shards=(0, 1), fingerprint=PRINT):
        parts = PartSet(path, PLAN, fingerprint)
        for shard in shards:
            with parts.claim(shard):
                rows, ledger = PLAN.range_of(shard), []
                writer = RegionStoreWriter(staging := parts.staging(shard), self.spec, rows)
                for row in rows:
                    if row == FAILED:
                        writer.write_failed(row)
                        ledger.append(LedgerRow("v2", row, "extract", "failed", Reason.BAD_BOX, "no box"))
                    else:
                        writer.write(row, clip(row))
                        ledger.append(LedgerRow(f"v{row}", row, "extract", "ok"))
                writer.close()
                parts.commit(shard, staging, ledger=ledger)
        return path

    def expected(self, row):
        """The slow plain version: what a reader must return for one clip, array by array."""
        values = {name: buffer[0] for name, buffer in self.spec.empty(1).items()}
        frames = [] if row == FAILED else clip(row)
        values["num_regions"][:] = 0
        for index, frame in enumerate(frames):
            count = len(frame.boxes)
            for name in (*SMALL, "features"):
                values[name][index, :count] = getattr(frame, name)
            for name in ("frame_seconds", "image_size_px", "whole_image"):
                values[name][index] = getattr(frame, name)
            values["num_regions"][index] = count
        values["whole_image"] = values["whole_image"] == 1
        return values

    def check(self, batch, rows, frames=slice(None), arrays=ARRAYS):
        assert batch.rows.tolist() == list(rows)
        for name in {*arrays, "num_regions"}:
            wanted = np.stack([self.expected(row)[name][frames] for row in rows])
            found = getattr(batch, name)
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted, err_msg=name)
        for name in set(ARRAYS) - {*arrays, "num_regions"}:
            assert getattr(batch, name) is None

    # Reading what was written

    def test_reads_rows_in_the_order_asked_for(self, stored):
        store = RegionStore(stored)
        assert (store.spec, store.num_rows) == (self.spec, 11)
        self.check(store.read([10, 0, 5, 6, 0, 3]), [10, 0, 5, 6, 0, 3])

    def test_reads_every_row_alone(self, stored):
        store = RegionStore(stored)
        for row in store.ok_rows():
            self.check(store.read([row]), [row])

    def test_reads_some_frames_and_some_arrays(self, stored):
        store = RegionStore(stored)
        self.check(store.read([1, 7], frames=[2, 0], arrays=["boxes"]), [1, 7], [2, 0], ["boxes"])
        batch = store.read([1, 7], frames=np.array([[2], [1]]), arrays=("features",))
        np.testing.assert_array_equal(batch.features[0], self.expected(1)["features"][[2]])
        np.testing.assert_array_equal(batch.features[1], self.expected(7)["features"][[1]])

    def test_reads_nothing(self, stored):
        assert RegionStore(stored).read([]).features.shape == (0, FRAMES, REGIONS, DIM)

    def test_read_all_is_every_row_with_failed_ones_empty(self, stored):
        store = RegionStore(stored)
        self.check(store.read_all(), range(11))
        self.check(store.read_all(["scores"]), range(11), arrays=["scores"])

    def test_status_and_usable_rows(self, half_stored):
        store = RegionStore(half_stored)
        assert [store.status(row) for row in (0, FAILED, SHORT, 6)] == ["ok", "failed", "ok", "missing"]
        assert store.ok_rows().tolist() == [0, 1, 3, 4, 5]

    def test_padding_is_never_zero(self, stored):
        batch = RegionStore(stored).read_all()
        absent = np.arange(REGIONS) >= batch.num_regions[..., None]
        assert absent.any()
        for name in ("features", "boxes", "scores", "attribute_scores"):
            assert np.isnan(getattr(batch, name)[absent]).all()
        for name in ("class_ids", "attribute_ids"):
            assert (getattr(batch, name)[absent] == -1).all()

    def test_a_pickled_store_reads_the_same(self, stored):
        """Data loader workers that are spawned get the store by pickle."""
        store = RegionStore(stored)
        store.read([0])
        self.check(pickle.loads(pickle.dumps(store)).read([7]), [7])

    # Layout

    def test_stock_zarr_reads_the_part(self, stored):
        path = stored
        group = zarr.open_group(path / "parts/000000", mode="r", zarr_format=3)
        assert sorted(group.array_keys()) == sorted(ARRAYS)
        np.testing.assert_array_equal(group["features"][1], self.expected(1)["features"])
        assert group["features"].chunks == (1, 1, REGIONS, DIM)
        assert group["features"].shards == (4, FRAMES, REGIONS, DIM)
        assert np.isnan(group["features"].fill_value)
        assert group["num_regions"].fill_value == -1
        for name in ARRAYS:
            codecs = group[name].metadata.codecs[0]
            assert [type(codec).__name__ for codec in codecs.codecs] == ["BytesCodec", "Crc32cCodec"]
            assert [type(codec).__name__ for codec in codecs.index_codecs] == ["BytesCodec", "Crc32cCodec"]

    def test_every_zarr_shard_is_a_file(self, path):
        """Also where all values are fill values (row FAILED alone in a part): absent must mean damaged."""
        parts = PartSet(path, ShardPlan(1, 1), PRINT)
        with parts.claim(0):
            writer = RegionStoreWriter(staging := parts.staging(0), self.spec, range(1))
            writer.write_failed(0)
            writer.close()
            parts.commit(0, staging, ledger=[])
        assert len(list((path / "parts/000000").glob("*/c/**/0"))) >= len(ARRAYS)
        store = RegionStore(path)
        assert store.status(0) == "failed"
        with pytest.raises(FailedRowError, match=r"row 0 .*the ledger gives no reason"):
            store.read([0])

    def test_equal_rows_give_equal_bytes(self, path, tmp_path):
        assert payload_digests(self.write(path)) == payload_digests(self.write(tmp_path / "again", shards=(1, 0)))

    # Refusals

    def test_failed_and_missing_rows_are_refused_by_name(self, half_stored):
        store = RegionStore(half_stored)
        with pytest.raises(FailedRowError, match=r"clip 'v2' \(row 2\) .*: failed in stage 'extract', bad_box: no box"):
            store.read([0, FAILED])
        with pytest.raises(
            MissingRowError, match="row 6 in shard 1 of extract/demo-aaaaaaaa: regions were never written"
        ):
            store.read([6])
        with pytest.raises(MissingRowError, match="part 000001"):
            store.read_all()
        with pytest.raises(MissingRowError, match="no shard was committed"):
            RegionStore(half_stored.parent / "nowhere")

    @pytest.mark.parametrize("row", [-1, 11])
    def test_rows_outside_the_manifest(self, stored, row):
        with pytest.raises(IndexError, match="rows 0 to 10"):
            RegionStore(stored).read([row])

    def test_bad_requests(self, stored):
        store = RegionStore(stored)
        with pytest.raises(ValueError, match=r"arrays \['colour'\]: allowed"):
            store.read([0], arrays=["colour"])
        with pytest.raises(ValueError, match="arrays"):
            store.read([0], arrays="boxes")
        for frames in ([-1], [FRAMES]):
            with pytest.raises(IndexError, match="the store has frames 0 to 2"):
                store.read([0], frames=frames)
        with pytest.raises(ValueError, match=r"frames has shape \(1, 1\)"):
            store.read([0, 1], frames=[[0]])

    def test_another_recipe(self, stored):
        path = stored
        with pytest.raises(FingerprintMismatchError, match="made with another config"):
            RegionStore(path, "b" * 64)

    def test_parts_of_two_recipes_in_one_folder(self, path, tmp_path):
        self.write(path, shards=[0])
        other = self.write(tmp_path / "other" / "store", shards=[1], fingerprint="b" * 64)
        for name in ("parts/000001", "commits/000001.json", "ledger/000001.parquet"):
            shutil.move(other / name, path / name)
        with pytest.raises(FingerprintMismatchError):
            RegionStore(path)

    # Damage

    def files(self, path):
        return sorted(file for file in (path / "parts/000000").rglob("*") if file.is_file())

    @pytest.mark.parametrize(
        "damage",
        [os.unlink, lambda file: os.truncate(file, 0), lambda file: os.truncate(file, file.stat().st_size - 1)],
    )
    def test_missing_empty_and_truncated_files_are_refused_at_open(self, stored, damage):
        path = stored
        for file in self.files(path):
            whole = file.read_bytes()
            damage(file)
            with pytest.raises(DamagedStoreError, match="part 000000 of extract/demo-aaaaaaaa: parts/000000/"):
                RegionStore(path)
            file.write_bytes(whole)
        self.check(RegionStore(path).read_all(), range(11))

    @pytest.mark.parametrize(
        "damage", [os.unlink, lambda file: os.truncate(file, 0), lambda file: os.truncate(file, 9)]
    )
    def test_a_zarr_shard_that_vanishes_under_an_open_store_is_refused(self, stored, damage):
        store = RegionStore(stored)
        store.read([0])
        for file in [file for file in self.files(stored) if "/c/1/" in file.as_posix()]:
            name = file.relative_to(stored / "parts/000000").parts[0]
            damage(file)
            if name != "num_regions":  # read once at open
                with pytest.raises(DamagedStoreError, match=rf"{name} of clip 'v5' \(row 5\) .*Zarr shard {name}/c/1/"):
                    store.read([5], arrays=[name])
                with pytest.raises(DamagedStoreError, match=name):
                    store.read_all([name])
            self.check(store.read([3]), [3])

    def test_a_flipped_bit_anywhere_is_refused(self, stored):
        path = stored
        rng = np.random.default_rng(0)
        for file in self.files(path):
            whole = file.read_bytes()
            for place in {0, len(whole) - 1, len(whole) // 2, int(rng.integers(len(whole)))}:
                file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :])
                with pytest.raises(DamagedStoreError, match="part 000000 of extract/demo-aaaaaaaa"):
                    RegionStore(path).read_all()
            file.write_bytes(whole)
        self.check(RegionStore(path).read_all(), range(11))

    def test_a_page_of_zeros_in_the_data_is_refused(self, stored):
        path = stored
        file = path / "parts/000000/features/c/0/0/0/0"
        whole = file.read_bytes()
        file.write_bytes(b"\0" * 64 + whole[64:])
        with pytest.raises(DamagedStoreError, match=r"features of clip 'v0' \(row 0\)"):
            RegionStore(path).read([0])

    def test_a_chunk_that_was_left_out_is_refused(self, path):
        """zarr reads an absent chunk of a valid shard as fill values, without an error."""
        parts = PartSet(path, ShardPlan(1, 1), PRINT)
        with parts.claim(0):
            writer = RegionStoreWriter(staging := parts.staging(0), self.spec, range(1))
            writer.write(0, clip(0))
            writer.close()
            group = zarr.open_group(staging, mode="r+")
            group["features"].with_config({"write_empty_chunks": False})[:] = np.nan
            parts.commit(0, staging, ledger=[])
        with pytest.raises(DamagedStoreError, match=r"row 0 in shard 0 .*Zarr shard"):
            RegionStore(path).read([0])

    # Writing

    def writer(self, tmp_path, rows=range(3)):
        return RegionStoreWriter(tmp_path, self.spec, rows)

    def test_every_row_once_in_order(self, tmp_path):
        writer = self.writer(tmp_path, range(6, 8))
        with pytest.raises(ValueError, match="got row 7, expected row 6"):
            writer.write(7, clip(7))
        writer.write(6, clip(6))
        with pytest.raises(ValueError, match="got row 6, expected row 7"):
            writer.write_failed(6)
        with pytest.raises(ValueError, match="row 7 was neither written nor marked failed"):
            writer.close()
        writer.write_failed(7)
        with pytest.raises(ValueError, match="got row 8, the part is complete"):
            writer.write(8, clip(8))
        writer.close()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"boxes": np.zeros((0, 4))}, "0 regions, must be 1 to 4; a frame without detections gets one whole-image"),
            ({"boxes": np.zeros((5, 4))}, "5 regions, must be 1 to 4"),
            ({"scores": np.zeros(1)}, r"scores has shape \(1,\), expected \(2,\)"),
            ({"features": np.zeros((2, DIM + 1))}, r"features has shape \(2, 6\), expected \(2, 5\)"),
            ({"boxes": np.full((2, 4), np.nan)}, "boxes has a value that is not finite"),
            ({"boxes": np.tile([5, 5, 4, 9], (2, 1))}, "a box ends before it starts"),
            ({"features": np.full((2, DIM), np.inf)}, "features have a value that is not finite"),
            ({"frame_seconds": float("nan")}, "frame_seconds is nan"),
        ],
    )
    def test_bad_regions_are_refused_by_row_and_frame(self, tmp_path, change, message):
        good = frame_regions(1, 0)
        assert len(good.boxes) == 2
        writer = self.writer(tmp_path)
        with pytest.raises(ValueError, match=f"row 0, frame 1: {message}"):
            writer.write(0, [good, FrameRegions(**{**vars(good), **change})])
        writer.write(0, [good])

    @pytest.mark.parametrize("count", [0, FRAMES + 1])
    def test_a_clip_has_one_to_num_frames_frames(self, tmp_path, count):
        with pytest.raises(ValueError, match=f"row 0: {count} frames, must be 1 to 3"):
            self.writer(tmp_path).write(0, [frame_regions(0, 0)] * count)

    def test_an_empty_part_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="must be a non-empty range"):
            self.writer(tmp_path, range(0))


class TestFloat16(RegionStoreContract):
    dtype = "float16"

    def test_a_feature_too_large_for_float16_is_refused(self, tmp_path):
        frame = frame_regions(0, 0)
        huge = FrameRegions(**{**vars(frame), "features": np.full((1, DIM), 65520.0)})  # rounds up past 65504
        with pytest.raises(ValueError, match="row 0, frame 0: features have a value that is not finite as float16"):
            self.writer(tmp_path).write(0, [huge])


class TestFloat32(RegionStoreContract):
    dtype = "float32"


@pytest.mark.parametrize(
    ("values", "message"),
    [((0, 1, 1), "num_frames is 0"), ((1, 0, 1), "max_regions is 0"), ((1, 1, 0), "feature_dim is 0"), ((1, 1, 1, "int8"), "dtype")],
)  # fmt: skip
def test_bad_specs(values, message):
    with pytest.raises(ValueError, match=message):
        RegionStoreSpec(*values)


@pytest.mark.parametrize(("frames", "clips"), [(1, 1024), (8, 128), (3, 341), (2000, 1)])
def test_a_zarr_shard_holds_about_1024_frames(frames, clips):
    assert RegionStoreSpec(frames, 1, 1).clips_per_zarr_shard == clips
