"""Region store: region features, boxes and labels of every sampled frame, in immutable Zarr parts.

Reading refuses rather than guesses: a row whose part has no commit record, a failed row, a missing or truncated Zarr
shard and a chunk with a wrong crc32c all raise, where stock zarr gives zeros for most of them. This reader goes through
stock zarr, one clip at a time.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import zarr

from storage.absent_rows import absent_row_error, describe_row
from storage.commits import part_label, size_problem
from storage.durable import digest_file
from storage.errors import DamagedStoreError, FingerprintMismatchError, MissingRowError
from storage.region_layout import ARRAYS, NEVER_WRITTEN, PER_REGION, RegionStoreSpec
from storage.region_writer import FrameRegions, RegionStoreWriter
from storage.shards import PartSet

__all__ = ["ARRAYS", "FrameRegions", "RegionBatch", "RegionStore", "RegionStoreSpec", "RegionStoreWriter"]

_OPEN_PARTS = 64  # parts kept open; each holds ten array handles and its num_regions


@dataclass(frozen=True)
class RegionBatch:
    """Regions of B clips with F frames of up to R regions; arrays that were not asked for are None.

    Regions beyond `num_regions`, and frames with none, hold NaN (floats) and -1 (integers): mask before computing.
    """

    rows: np.ndarray  # (B,) int64 manifest rows
    num_regions: np.ndarray  # (B, F) int16, 0 = the clip has no such frame
    features: np.ndarray | None = None  # (B, F, R, D) float16 or float32
    boxes: np.ndarray | None = None  # (B, F, R, 4) float32, xyxy pixels of the original frame
    scores: np.ndarray | None = None  # (B, F, R) float32
    class_ids: np.ndarray | None = None  # (B, F, R) int32
    attribute_ids: np.ndarray | None = None  # (B, F, R) int32
    attribute_scores: np.ndarray | None = None  # (B, F, R) float32
    frame_seconds: np.ndarray | None = None  # (B, F) float64
    image_size_px: np.ndarray | None = None  # (B, F, 2) int32, (width, height)
    whole_image: np.ndarray | None = None  # (B, F) bool


class RegionStore:
    """Reads a region store.

    Args:
        directory: the artifact's folder.
        fingerprint: the artifact's full fingerprint; parts made by another recipe are refused. None takes the store's.
    Raises:
        MissingRowError: nothing was ever committed there.
        FingerprintMismatchError: made by another recipe.
        DamagedStoreError: a committed file is missing or has another size; names the part and the file.
    """

    def __init__(self, directory: Path | str, fingerprint: str | None = None) -> None:
        self._parts = PartSet.open(directory, fingerprint)
        self._open: OrderedDict[int, _RegionPart] = OrderedDict()
        self.committed = self._parts.check_all()
        self.spec = self._part(self.committed[0]).spec

    @property
    def num_rows(self) -> int:
        """Rows of the manifest."""
        return self._parts.plan.num_rows

    def status(self, row: int) -> Literal["ok", "failed", "missing"]:
        """What is there for a row. Raises IndexError outside the manifest."""
        shard = self._parts.plan.shard_of(row)
        if shard not in self.committed:
            return "missing"
        counts = self._part(shard).num_regions[row - self._parts.plan.range_of(shard).start]
        if (counts == NEVER_WRITTEN).any():
            return "missing"
        return "ok" if counts.any() else "failed"

    def ok_rows(self) -> np.ndarray:
        """(n,) int64 rows that can be read, ascending."""
        found = [np.empty(0, np.int64)]
        for shard in self.committed:
            counts = self._part(shard).num_regions
            usable = (counts != NEVER_WRITTEN).all(axis=1) & counts.any(axis=1)
            found.append(np.flatnonzero(usable) + self._parts.plan.range_of(shard).start)
        return np.concatenate(found)

    def read(
        self, rows: Sequence[int], frames: Sequence[int] | np.ndarray | None = None, arrays: Sequence[str] = ARRAYS
    ) -> RegionBatch:
        """Read clips, in the order asked for.

        Args:
            rows: B manifest rows.
            frames: positions among the stored frames: None = all, (F,) the same for every clip, (B, F) per clip.
            arrays: which arrays to read; `num_regions` always comes.
        Raises:
            MissingRowError, FailedRowError: a row has no regions; names the clip or row.
            DamagedStoreError: bytes differ from what was written; names the part and the row.
            IndexError: a row or frame that does not exist.
        """
        wanted = _checked_names(arrays)
        rows = [int(row) for row in rows]
        picks = self._picks(frames, len(rows))
        result = self._buffers(wanted, len(rows), picks.shape[1])
        for index, row in enumerate(rows):
            shard = self._require_ok(row)
            offset = row - self._parts.plan.range_of(shard).start
            values = self._part(shard).read(slice(offset, offset + 1), wanted)
            for name in wanted:
                result[name][index] = values[name][0][picks[index]]
        return _batch(rows, result)

    def read_all(self, arrays: Sequence[str] = ARRAYS) -> RegionBatch:
        """The whole store in memory, one Zarr shard after another; for stores that fit.

        Batch position = manifest row. Failed rows are included: num_regions 0, NaN and -1 elsewhere (see `ok_rows`).

        Raises:
            MissingRowError: a row was never committed. DamagedStoreError: as `read`.
        """
        wanted = _checked_names(arrays)
        result = self._buffers(wanted, self.num_rows, self.spec.num_frames)
        for shard in range(self._parts.plan.num_shards):
            rows = self._parts.plan.range_of(shard)
            part = self._part(shard)
            never = np.flatnonzero((part.num_regions == NEVER_WRITTEN).any(axis=1))
            if len(never):
                where = describe_row(self._parts, rows.start + int(never[0]))
                raise MissingRowError(f"{where}: regions were never written; {_WHY}")
            for first in range(0, len(rows), self.spec.clips_per_zarr_shard):
                slab = slice(first, min(first + self.spec.clips_per_zarr_shard, len(rows)))
                values = part.read(slab, wanted)
                for name in wanted:
                    result[name][rows.start + slab.start : rows.start + slab.stop] = values[name]
        return _batch(range(self.num_rows), result)

    def _part(self, shard: int) -> "_RegionPart":
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        part = _RegionPart(self._parts, shard)
        if shard != self.committed[0] and part.spec != self.spec:
            raise FingerprintMismatchError(
                f"{part_label(self._parts.part(shard))}: has {part.spec}, the store has {self.spec}"
            )
        self._open[shard] = part
        if len(self._open) > _OPEN_PARTS:
            self._open.popitem(last=False)
        return part

    def _require_ok(self, row: int) -> int:
        """Shard of a readable row."""
        status = self.status(row)
        if status == "missing":
            raise MissingRowError(f"{describe_row(self._parts, row)}: regions were never written; {_WHY}")
        if status == "failed":
            raise absent_row_error(self._parts, row, known_failed=True)
        return self._parts.plan.shard_of(row)

    def _picks(self, frames: Sequence[int] | np.ndarray | None, num_rows: int) -> np.ndarray:
        """(B, F) frame positions."""
        count = self.spec.num_frames
        picks = np.arange(count) if frames is None else np.asarray(frames, dtype=np.int64)
        if picks.ndim not in (1, 2) or (picks.ndim == 2 and len(picks) != num_rows):
            raise ValueError(f"frames has shape {picks.shape}; allowed are None, (F,) and ({num_rows}, F)")
        if picks.size and not (picks.min() >= 0 and picks.max() < count):
            raise IndexError(f"frames {picks.min()} to {picks.max()}: the store has frames 0 to {count - 1}")
        return np.broadcast_to(picks, (num_rows, picks.shape[-1]))

    def _buffers(self, wanted: Sequence[str], num_rows: int, num_frames: int) -> dict[str, np.ndarray]:
        layout = self.spec.arrays()
        return {
            name: np.full((num_rows, num_frames, *layout[name][0][1:]), layout[name][2], layout[name][1])
            for name in wanted
        }


class _RegionPart:
    """One opened part; sizes were checked against the commit record, metadata against its digest."""

    def __init__(self, parts: PartSet, shard: int) -> None:
        self._parts = parts
        self._name = part_label(parts.part(shard))
        self._rows = parts.plan.range_of(shard)
        self._folder, self._files = parts.part(shard), parts.record(shard).files
        if f"{ARRAYS[0]}/zarr.json" not in self._files:
            raise DamagedStoreError(f"{self._name}: holds {', '.join(list(self._files)[:3])}; this is no region store")
        for file, entry in self._files.items():
            if file.endswith("zarr.json") and digest_file(self._folder / file) != entry["digest"]:
                raise DamagedStoreError(f"{self._name}: {file} differs from its commit record; {_REMAKE}")
        group = zarr.open_group(self._folder, mode="r", zarr_format=3, use_consolidated=False)
        facts = dict(group.attrs["region_store"])
        self.spec = RegionStoreSpec(**{key: facts[key] for key in RegionStoreSpec.__dataclass_fields__})
        self._arrays = {array: group[array] for array in ARRAYS}
        self.num_regions = self._raw("num_regions", slice(0, len(self._rows)))

    def read(self, clips: slice, wanted: Sequence[str]) -> dict[str, np.ndarray]:
        values = {name: self._raw(name, clips) for name in wanted if name != "num_regions"}
        values["num_regions"] = self.num_regions[clips]
        self._require_written(clips, values)
        return values

    def _raw(self, name: str, clips: slice) -> np.ndarray:
        self._require_shard_files(name, clips)
        try:
            return np.asarray(self._arrays[name][clips])
        except (ValueError, OSError, RuntimeError) as error:
            raise self._damaged(name, clips, str(error)) from error

    def _require_shard_files(self, name: str, clips: slice) -> None:
        """Refuse an absent or truncated Zarr shard right before reading it: stock zarr reads it as fill values."""
        array = self._arrays[name]
        size = array.shards[0]
        zeros = "/0" * (array.ndim - 1)
        for index in range(clips.start // size, (clips.stop - 1) // size + 1):
            file = f"{name}/c/{index}{zeros}"
            known = self._files.get(file)
            problem = size_problem(self._folder / file, known["bytes"]) if known else "is not in the commit record"
            if problem is not None:
                raise self._damaged(name, clips, f"Zarr shard {file} {problem}")

    def _damaged(self, name: str, clips: slice, problem: str) -> DamagedStoreError:
        first, last = self._rows[clips.start], self._rows[clips.stop - 1]
        where = describe_row(self._parts, first) if first == last else f"rows {first} to {last}"
        return DamagedStoreError(f"{self._name}: {name} of {where} is damaged: {problem}; {_REMAKE}")

    def _require_written(self, clips: slice, values: dict[str, np.ndarray]) -> None:
        """A chunk that is absent inside a shard reads as its fill value: where regions are counted that is damage."""
        for name in set(PER_REGION) & values.keys():
            array = values[name]
            counts = values["num_regions"][..., None]
            present = np.arange(array.shape[2]) < counts
            first = array if array.ndim == 3 else array[..., 0]
            fill = np.isnan(first) if np.issubdtype(array.dtype, np.floating) else first == -1
            if name in ("class_ids", "attribute_ids"):
                continue  # -1 is a legal value there; their chunks are guarded by size, index crc and chunk crc
            damaged = np.argwhere(fill & present)
            if len(damaged):
                clip = clips.start + int(damaged[0][0])
                raise self._damaged(name, slice(clip, clip + 1), "a chunk is absent from its Zarr shard")


_WHY = "run 'regionvlp why extract'"
_REMAKE = "delete the damaged file and run the stage again, it remakes this part"


def _checked_names(arrays: Sequence[str]) -> list[str]:
    unknown = sorted(set(arrays) - set(ARRAYS))
    if isinstance(arrays, str) or unknown:
        raise ValueError(f"arrays {unknown or arrays!r}: allowed is a sequence of {', '.join(ARRAYS)}")
    return [name for name in ARRAYS if name in arrays or name == "num_regions"]


def _batch(rows: Sequence[int], values: dict[str, np.ndarray]) -> RegionBatch:
    if "whole_image" in values:
        values["whole_image"] = values["whole_image"] == 1
    return RegionBatch(rows=np.asarray(rows, np.int64), **values)
