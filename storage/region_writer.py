"""Writing one part of a region store: one writer, whole Zarr shards, rows in ascending order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.commits import part_label
from storage.durable import naming_disk_full
from storage.region_layout import RegionStoreSpec, create_part


@dataclass(frozen=True)
class FrameRegions:
    """Regions of one frame, best first; at least one (a frame without detections has one whole-image region).

    Args:
        boxes: (n, 4) xyxy pixels of the original frame.
        scores: (n,) detection confidence.
        class_ids: (n,) detector class.
        attribute_ids: (n,) best attribute, -1 = none.
        attribute_scores: (n,) its score.
        features: (n, D).
        frame_seconds: presentation time in seconds.
        image_size_px: (width, height) of the original frame.
        whole_image: True if the one region stands for the whole frame.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    attribute_ids: np.ndarray
    attribute_scores: np.ndarray
    features: np.ndarray
    frame_seconds: float
    image_size_px: tuple[int, int]
    whole_image: bool = False


class RegionStoreWriter:
    """Writes the regions of a fixed row range into `staging`.

    One Zarr shard is buffered in memory (126 MB at 1,024 frames x 30 x 2048 fp16) because zarr rewrites a whole shard on
    every partial write. Every row must be written or marked failed before `close`.
    """

    def __init__(self, staging: Path | str, spec: RegionStoreSpec, rows: range) -> None:
        if len(rows) == 0 or rows.step != 1:
            raise ValueError(f"region store part: rows {rows} must be a non-empty range with step 1")
        self._folder = Path(staging)
        self._spec = spec
        self._rows = rows
        self._next = rows.start
        self._clips = min(spec.clips_per_zarr_shard, len(rows))
        self._subject = f"regions of {part_label(self._folder)}"
        with naming_disk_full(self._subject):
            self._arrays = create_part(self._folder, spec, rows)
        self._buffer = spec.empty(self._clips)

    def write(self, row: int, frames: Sequence[FrameRegions]) -> None:
        """Write a clip: 1 to num_frames frames; frames it does not have stay empty (num_regions 0).

        Raises:
            ValueError: row out of order; wrong shapes; no regions in a frame; values that are not finite, also after
                conversion to the stored dtype (float16 ends at 65504).
            DiskFullError: no room.
        """
        self._require_next(row)
        if not 1 <= len(frames) <= self._spec.num_frames:
            raise ValueError(
                f"row {row}: {len(frames)} frames, must be 1 to {self._spec.num_frames}; else mark it failed"
            )
        for index, frame in enumerate(frames):
            _check_frame(frame, self._spec, f"row {row}, frame {index}")
        clip = self._position(row)
        for name, buffer in self._buffer.items():
            for index, frame in enumerate(frames):
                _put(buffer[clip], name, index, frame)
        self._buffer["num_regions"][clip, len(frames) :] = 0
        self._finish_row()

    def write_failed(self, row: int) -> None:
        """Mark a clip as failed: it has no regions in any frame. The ledger holds the reason."""
        self._require_next(row)
        self._buffer["num_regions"][self._position(row)] = 0
        self._finish_row()

    def close(self) -> None:
        """Check that every row was written or failed. Raises ValueError naming the first row that was not."""
        if self._next != self._rows.stop:
            raise ValueError(
                f"{self._subject}: row {self._next} was neither written nor marked failed "
                f"(rows {self._rows.start} to {self._rows.stop - 1}); call write or write_failed for every row"
            )

    def _require_next(self, row: int) -> None:
        if row != self._next or row not in self._rows:
            expected = f"expected row {self._next}" if self._next in self._rows else "the part is complete"
            raise ValueError(f"{self._subject}: got row {row}, {expected}; write every row once, in ascending order")

    def _position(self, row: int) -> int:
        """Position of the row inside the buffer."""
        return (row - self._rows.start) % self._clips

    def _finish_row(self) -> None:
        self._next += 1
        done = self._next - self._rows.start
        if done % self._clips == 0 or self._next == self._rows.stop:
            first = (done - 1) // self._clips * self._clips
            with naming_disk_full(self._subject):
                for name, array in self._arrays.items():
                    array[first:done] = self._buffer[name][: done - first]
            self._buffer = self._spec.empty(self._clips)


def _put(clip: np.ndarray, name: str, index: int, frame: FrameRegions) -> None:
    """Copy one array of a frame into its place."""
    count = len(frame.boxes)
    if name == "num_regions":
        clip[index] = count
    elif name in ("frame_seconds", "image_size_px", "whole_image"):
        clip[index] = getattr(frame, name)
    else:
        clip[index, :count] = getattr(frame, name)


def _check_frame(frame: FrameRegions, spec: RegionStoreSpec, where: str) -> None:
    count = len(frame.boxes)
    if not 1 <= count <= spec.max_regions:
        raise ValueError(
            f"{where}: {count} regions, must be 1 to {spec.max_regions}; "
            "a frame without detections gets one whole-image region"
        )
    shapes = {
        "boxes": (count, 4),
        "scores": (count,),
        "class_ids": (count,),
        "attribute_ids": (count,),
        "attribute_scores": (count,),
        "features": (count, spec.feature_dim),
    }
    for name, shape in shapes.items():
        if np.shape(getattr(frame, name)) != shape:
            raise ValueError(f"{where}: {name} has shape {np.shape(getattr(frame, name))}, expected {shape}")
    for name in ("boxes", "scores", "attribute_scores"):
        if not np.isfinite(getattr(frame, name)).all():
            raise ValueError(f"{where}: {name} has a value that is not finite")
    if not np.isfinite(frame.frame_seconds):
        raise ValueError(f"{where}: frame_seconds is {frame.frame_seconds}")
    with np.errstate(over="ignore"):
        stored = np.asarray(frame.features).astype(spec.dtype)
    if not np.isfinite(stored).all():
        raise ValueError(f"{where}: features have a value that is not finite as {spec.dtype}")
    boxes = np.asarray(frame.boxes)
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"{where}: a box ends before it starts; boxes are x1, y1, x2, y2 in pixels")
