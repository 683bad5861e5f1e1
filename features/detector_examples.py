"""Annotated boxes joined with stored frames: what the detector is trained and evaluated on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from detector.training import Example
from features.images import decode_jpeg
from storage.errors import FailedRowError
from storage.frame_store import FrameStore
from storage.manifest import Manifest


class DetectorExamples(Sequence[Example]):
    """Examples of some manifest rows, one per stored frame that has annotations, in order of row and frame.

    Images stay compressed in memory and are decoded when asked for.
    """

    def __init__(self, items: list["_Annotated"]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return DetectorExamples(self._items[index])
        item = self._items[index]
        return Example(decode_jpeg(item.jpeg), item.boxes, item.class_ids, item.attribute_ids)


class _Annotated:
    """One frame with its annotation; boxes in pixels of the stored frame."""

    __slots__ = ("attribute_ids", "boxes", "class_ids", "jpeg")

    def __init__(self, jpeg: bytes, annotation: dict, scale: np.ndarray) -> None:
        self.jpeg = jpeg
        self.boxes = (np.array(annotation["boxes"], np.float32).reshape(-1, 4) * scale).astype(np.float32)
        self.class_ids = np.array(annotation["class_ids"], np.int64)
        self.attribute_ids = [list(ids) for ids in annotation["attribute_ids"]]


def detector_examples(
    manifest: Manifest, frames: FrameStore, boxes: Path, rows: Sequence[int] | np.ndarray
) -> DetectorExamples:
    """Annotated frames of the given rows; clips that could not be sampled and frames without annotation are left out.

    Args:
        boxes: boxes.parquet: clip_id, frame_index, boxes (xyxy px of the source), class_ids, attribute_ids.
    Raises:
        ValueError: no annotated frame at all; nothing in boxes.parquet belongs to these rows.
    """
    annotations = _annotations(boxes, {manifest.clip_ids[row] for row in rows})
    items = []
    for row in rows:
        try:
            clip = frames.read(int(row))
        except FailedRowError:
            continue
        scale = np.tile(np.asarray(clip.size_px) / np.asarray(clip.original_size_px), 2)
        for index, jpeg in zip(clip.frame_indices, clip.jpegs):
            annotation = annotations.get((clip.clip_id, index))
            if annotation is not None:
                items.append(_Annotated(jpeg, annotation, scale))
    if not items:
        raise ValueError(
            f"{boxes.name}: no annotated frame among {len(rows)} clips; are clip ids and frame numbers its own?"
        )
    return DetectorExamples(items)


def _annotations(boxes: Path, clip_ids: set[str]) -> dict[tuple[str, int], dict]:
    """Annotation rows by (clip id, frame number)."""
    table = pq.read_table(boxes, memory_map=False)
    table = table.filter(pc.is_in(table["clip_id"], value_set=pa.array(sorted(clip_ids), pa.string())))
    return {(row["clip_id"], row["frame_index"]): row for row in table.to_pylist()}
