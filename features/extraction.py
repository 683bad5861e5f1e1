"""One shard of the region store: stored frames through the detector, regions in pixels of the original frames."""

from collections.abc import Iterator

import numpy as np

from detector.inference import RegionDetector
from detector.regions import Regions
from detector.selection import NonFiniteError
from features.images import decode_jpeg
from storage.errors import FailedRowError
from storage.frame_store import FrameRow, FrameStore
from storage.ledger import LedgerRow, Reason
from storage.manifest import Manifest
from storage.region_store import FrameRegions, RegionStoreWriter

STAGE = "extract"
FRAMES_PER_CALL = 64  # frames handed to the detector at once: fills its batches across short clips; 64 at 720p = 177 MB


def extract_shard(
    frames: FrameStore,
    manifest: Manifest,
    rows: range,
    detector: RegionDetector,
    writer: RegionStoreWriter,
    *,
    dtype: str = "float16",
) -> list[LedgerRow]:
    """Regions of the clips of some rows into the writer (which the caller closes).

    Clips are grouped by a rule that looks at the frame store alone, so that a shard has the same bytes whenever it is
    made. A frame without detections gets one region that spans it, marked `whole_image`.

    Args:
        dtype: type the store keeps features in; what does not fit (float16 ends at 65504) counts as non-finite.
    Returns:
        A ledger row per manifest row, in order: `upstream_failed` where the clip has no frames, `non_finite` where the
        detector gives NaN or infinity, `unreadable` where it refuses the frames.
    """
    ledger = []
    for group in _groups(frames, rows):
        clips = [clip for clip in group.values() if isinstance(clip, FrameRow)]
        found = dict(zip((clip.row for clip in clips), _detect(detector, clips)))
        for row, clip in group.items():
            result = clip if isinstance(clip, LedgerRow) else found[row]
            if not isinstance(result, LedgerRow):
                result = _regions(clip, result, dtype)
            ledger.append(_write(writer, row, manifest.clip_ids[row], result))
    return ledger


def _groups(frames: FrameStore, rows: range) -> Iterator[dict[int, FrameRow | LedgerRow]]:
    """Neighbouring clips until they hold FRAMES_PER_CALL frames; clips without frames come as ledger rows."""
    group: dict[int, FrameRow | LedgerRow] = {}
    count = 0
    for row in rows:
        try:
            group[row] = frames.read(row)
            count += len(group[row].jpegs)
        except FailedRowError as error:
            group[row] = _failure(row, Reason.UPSTREAM_FAILED, str(error))
        if count >= FRAMES_PER_CALL:
            yield group
            group, count = {}, 0
    if group:
        yield group


def _failure(row: int, reason: Reason, message: str) -> LedgerRow:
    return LedgerRow("", row, STAGE, "failed", reason, message)


def _detect(detector: RegionDetector, clips: list[FrameRow]) -> list[list[Regions] | LedgerRow]:
    """Regions of the frames of each clip; where the detector refuses the group, clip by clip to find the one to blame."""
    images = [[decode_jpeg(jpeg) for jpeg in clip.jpegs] for clip in clips]
    try:
        found = iter(detector.detect([image for clip in images for image in clip], whole_image_when_empty=True))
        return [[next(found) for _ in clip] for clip in images]
    except (NonFiniteError, ValueError) as error:
        if len(clips) > 1:
            return [_detect(detector, [clip])[0] for clip in clips]
        reason = Reason.NON_FINITE if isinstance(error, NonFiniteError) else Reason.UNREADABLE
        return [_failure(clips[0].row, reason, f"the detector refuses the frames: {error}")]


def _regions(clip: FrameRow, found: list[Regions], dtype: str) -> list[FrameRegions] | LedgerRow:
    """Regions of each frame in the original frame's pixels."""
    result = []
    for number, regions in enumerate(found):
        with np.errstate(over="ignore"):
            stored = regions.features.astype(dtype)
        finite = [stored, regions.boxes, regions.scores, regions.attribute_scores]
        if not all(np.isfinite(values).all() for values in finite):
            return _failure(clip.row, Reason.NON_FINITE, f"frame {number}: NaN or infinity in what the detector gives")
        result.append(
            FrameRegions(
                boxes=_original_pixels(regions.boxes, clip),
                scores=regions.scores,
                class_ids=regions.class_ids,
                attribute_ids=regions.attribute_ids,
                attribute_scores=regions.attribute_scores,
                features=regions.features,
                frame_seconds=clip.frame_seconds[number],
                image_size_px=clip.original_size_px,
                whole_image=regions.whole_image,
            )
        )
    return result


def _original_pixels(boxes: np.ndarray, clip: FrameRow) -> np.ndarray:
    """(n, 4) float32 xyxy, from pixels of the stored to pixels of the original frame."""
    scale = np.asarray(clip.original_size_px, np.float64) / np.asarray(clip.size_px, np.float64)
    return (boxes * np.tile(scale, 2)).astype(np.float32)


def _write(writer: RegionStoreWriter, row: int, clip_id: str, result: list[FrameRegions] | LedgerRow) -> LedgerRow:
    if isinstance(result, LedgerRow):
        writer.write_failed(row)
        return LedgerRow(clip_id, row, STAGE, "failed", result.reason, result.message)
    writer.write(row, result)
    return LedgerRow(clip_id, row, STAGE, "ok")
