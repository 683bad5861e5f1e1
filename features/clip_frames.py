"""Frames of one clip, picked, decoded and turned into JPEG: the task a decoding process works on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.decoding import DecodedFrames, Window, read_frames
from features.images import encode_frame, read_image
from features.media_errors import MediaError
from features.sampling import SamplingConfig, pick_frames
from storage.ledger import Reason

# What native readers were seen to raise on damaged files, beside their own errors.
READER_ERRORS = (OSError, ValueError, RuntimeError, LookupError, ArithmeticError, MemoryError)


@dataclass(frozen=True)
class ClipTask:
    """One clip to sample. `path` is the media file; times in seconds, None = whole file."""

    clip_id: str
    path: Path
    kind: str
    start_seconds: float | None
    end_seconds: float | None
    config: SamplingConfig


@dataclass(frozen=True)
class SampledClip:
    """k frames as JPEG with where they come from; see `DecodedFrames`. Sizes are (width, height) px."""

    jpegs: list[bytes]
    frame_indices: list[int]
    frame_seconds: list[float]
    num_source_frames: int
    reader: str
    size_px: tuple[int, int]
    original_size_px: tuple[int, int]


@dataclass(frozen=True)
class ClipProblem:
    """Why a clip gave no frames."""

    reason: Reason
    message: str


def sample_clip(task: ClipTask) -> SampledClip | ClipProblem:
    """Frames of a clip, or the reason why there are none; raises only on a mistake in this program."""
    try:
        decoded = _decode(task)
        shapes = {frame.shape for frame in decoded.frames}
        if len(shapes) != 1:
            raise MediaError(Reason.UNREADABLE, f"the frame size changes within the clip: {sorted(shapes)}")
    except MediaError as error:
        return ClipProblem(error.reason, str(error))
    except READER_ERRORS as error:
        return ClipProblem(Reason.UNREADABLE, f"{type(error).__name__}: {error}")
    config = task.config
    encoded = [
        encode_frame(frame, quality=config.jpeg_quality, max_side_px=config.max_side_px) for frame in decoded.frames
    ]
    height, width, _ = shapes.pop()
    return SampledClip(
        jpegs=[content for content, _ in encoded],
        frame_indices=decoded.indices.tolist(),
        frame_seconds=decoded.seconds.tolist(),
        num_source_frames=decoded.num_source_frames,
        reader=decoded.reader,
        size_px=encoded[0][1],
        original_size_px=(width, height),
    )


def _decode(task: ClipTask) -> DecodedFrames:
    config = task.config
    if task.kind == "image":
        image = read_image(task.path, config.max_pixels)
        return DecodedFrames([image], np.zeros(1, np.int64), np.zeros(1), 1, "pillow")
    return read_frames(
        task.path,
        lambda n: pick_frames(config, task.clip_id, n),
        window=Window(task.start_seconds, task.end_seconds),
        reader=config.reader,
        max_pixels=config.max_pixels,
    )
