"""Region files of bottom-up-attention.pytorch (one npz per frame), read as DemoVLP reads them.

Order is by `objects_conf` descending; that is the maximum over all classes *including background*, so a confident
background ranks high, as in the release. Ties keep file order (the release's were unstable).
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.legacy_pickle import ForbiddenPickleError, read_plain_pickle
from storage.region_store import FrameRegions

MAX_MEMBER_BYTES = 1 << 28  # 256 MiB; 100 boxes x 2048 float32 are 0.8 MB


class LegacyRegionError(ValueError):
    """A region file that is damaged, not of this format, or holds something other than data."""


@dataclass(frozen=True)
class RegionFile:
    """One frame, best region first. n regions; boxes are xyxy px of an image of (width, height) `image_size_px`."""

    features: np.ndarray  # (n, D) float32
    boxes: np.ndarray  # (n, 4) float32
    scores: np.ndarray  # (n,) float32 objects_conf
    class_ids: np.ndarray  # (n,) int32
    attribute_ids: np.ndarray  # (n,) int32, -1 where the file has none
    attribute_scores: np.ndarray  # (n,) float32, 0 where the file has none
    image_size_px: tuple[int, int]

    def __len__(self) -> int:
        return len(self.boxes)

    def frame_regions(self, max_regions: int, frame_seconds: float) -> FrameRegions:
        """The best regions in the form that a region store takes."""
        best = slice(0, max_regions)
        return FrameRegions(
            boxes=self.boxes[best],
            scores=self.scores[best],
            class_ids=self.class_ids[best],
            attribute_ids=self.attribute_ids[best],
            attribute_scores=self.attribute_scores[best],
            features=self.features[best],
            frame_seconds=frame_seconds,
            image_size_px=self.image_size_px,
        )


@dataclass(frozen=True)
class PaddedRegions:
    """F frames of K slots: slots beyond a frame's regions repeat its last one and are False in `mask`."""

    features: np.ndarray  # (F, K, D) float32
    boxes: np.ndarray  # (F, K, 4) float32 xyxy px
    mask: np.ndarray  # (F, K) bool
    num_regions: np.ndarray  # (F,) int64
    image_size_px: np.ndarray  # (F, 2) int64 width, height


def read_region_file(path: Path) -> RegionFile:
    """Read one npz. The pickled `info` is parsed by an allow-list; nothing of it is executed.

    Raises:
        FileNotFoundError.
        LegacyRegionError: damaged, an array is missing or of a wrong shape, or the pickle holds more than data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            features, boxes = _numbers(archive, "x.npy"), _numbers(archive, "bbox.npy")
            info = _info(archive)
        return _ordered(features, boxes, info)
    except (zipfile.BadZipFile, EOFError, KeyError, OverflowError, ForbiddenPickleError, LegacyRegionError) as error:
        raise LegacyRegionError(f"region file {path.name}: {error}") from error
    except ValueError as error:
        raise LegacyRegionError(f"region file {path.name}: damaged array ({error})") from error


def read_frames_of_video(folder: Path, frame_indices: Sequence[int], max_regions: int = 30) -> PaddedRegions:
    """`{index}.npz` of some frames of a video, each once and in ascending order, as the release returns them.

    Raises:
        FileNotFoundError, LegacyRegionError: see read_region_file. ValueError: no frames, or a frame without regions.
    """
    if not len(frame_indices):
        raise ValueError(f"region files of {folder.name}: no frame was asked for")
    return padded([read_region_file(folder / f"{index}.npz") for index in sorted(set(frame_indices))], max_regions)


def padded(frames: Sequence[RegionFile], max_regions: int) -> PaddedRegions:
    """Stack the best `max_regions` regions of each frame. Raises ValueError for a frame without regions."""
    counts = np.array([min(len(frame), max_regions) for frame in frames], np.int64)
    if not len(frames) or counts.min() < 1:
        raise ValueError("a frame without regions cannot be padded; drop it first")
    slots = [np.minimum(np.arange(max_regions), count - 1) for count in counts]
    return PaddedRegions(
        features=np.stack([frame.features[slot] for frame, slot in zip(frames, slots)]),
        boxes=np.stack([frame.boxes[slot] for frame, slot in zip(frames, slots)]),
        mask=np.arange(max_regions) < counts[:, None],
        num_regions=counts,
        image_size_px=np.array([frame.image_size_px for frame in frames], np.int64),
    )


def _member(archive: zipfile.ZipFile, name: str) -> io.BytesIO:
    if name not in archive.namelist():
        raise LegacyRegionError(f"{name} is missing; it holds {archive.namelist()}")
    if archive.getinfo(name).file_size > MAX_MEMBER_BYTES:
        raise LegacyRegionError(f"{name} unpacks to more than {MAX_MEMBER_BYTES} bytes")
    return io.BytesIO(archive.read(name))


def _numbers(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    array = np.lib.format.read_array(_member(archive, name), allow_pickle=False)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise LegacyRegionError(f"{name} is {array.dtype} of shape {array.shape}, expected a float matrix")
    return array.astype(np.float32)


def _info(archive: zipfile.ZipFile) -> dict:
    member = _member(archive, "info.npy")
    version = np.lib.format.read_magic(member)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(member)
    if not dtype.hasobject or shape != ():
        raise LegacyRegionError(f"info.npy is {dtype} of shape {shape}, expected one object")
    info = read_plain_pickle(member.read())
    if not isinstance(info, dict):
        raise LegacyRegionError(f"info.npy holds a {type(info).__name__}, expected a dict")
    return info


def _ordered(features: np.ndarray, boxes: np.ndarray, info: dict) -> RegionFile:
    count = len(boxes)
    if boxes.shape[1:] != (4,) or len(features) != count:
        raise LegacyRegionError(f"x of shape {features.shape} and bbox of shape {boxes.shape} do not belong together")
    scores = _column(info, "objects_conf", count, np.float32)
    order = np.argsort(-scores, kind="stable")
    return RegionFile(
        features=features[order],
        boxes=boxes[order],
        scores=scores[order],
        class_ids=_column(info, "objects_id", count, np.int32)[order],
        attribute_ids=_column(info, "attrs_id", count, np.int32, default=-1)[order],
        attribute_scores=_column(info, "attrs_conf", count, np.float32, default=0)[order],
        image_size_px=(_integer(info, "image_w"), _integer(info, "image_h")),
    )


def _column(info: dict, name: str, count: int, dtype: type, default: float | None = None) -> np.ndarray:
    if name not in info and default is not None:
        return np.full(count, default, dtype)
    values = np.asarray(info.get(name))
    if values.shape != (count,) or values.dtype.kind not in "fiu":
        raise LegacyRegionError(f"info[{name!r}] has shape {values.shape} of {values.dtype}, expected {count} numbers")
    return values.astype(dtype)


def _integer(info: dict, name: str) -> int:
    value = np.asarray(info.get(name))
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise LegacyRegionError(f"info[{name!r}] is {info.get(name)!r:.80}, expected a number of pixels")
    return int(value.reshape(()))
