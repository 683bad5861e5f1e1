"""Videos whose every frame carries its own number in its pixels, in many containers."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS, CELL = 8, 16  # a frame is one row of 8 cells of 16 x 16 px, black or white: its number in binary


def barcode(number: int) -> np.ndarray:
    """(32, 128, 3) uint8."""
    cells = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(cells, np.uint8), CELL)
    return np.repeat(np.tile(row, (2 * CELL, 1))[..., None], 3, axis=2)


def frame_number(frame: np.ndarray) -> int:
    """The number in the pixels; survives any codec."""
    cells = frame[frame.shape[0] // 2, CELL // 2 :: CELL, 0] > 127
    return int(sum(int(cell) << bit for bit, cell in enumerate(cells)))


@dataclass(frozen=True)
class VideoKind:
    """How to write a barcode video."""

    suffix: str
    codec: str
    options: dict
    container: str | None = None


KINDS = {
    "h264_mp4": VideoKind(".mp4", "libx264", {"bf": "0", "g": "12"}),
    "h264_mp4_b_frames": VideoKind(".mp4", "libx264", {"bf": "3", "g": "12"}),
    "h264_mkv": VideoKind(".mkv", "libx264", {"bf": "2", "g": "12"}),
    "h264_ts": VideoKind(".ts", "libx264", {"bf": "2", "g": "12"}, "mpegts"),
    "mpeg2_ts": VideoKind(".ts", "mpeg2video", {"bf": "2", "g": "12"}, "mpegts"),
    "mpeg2_ps": VideoKind(".mpg", "mpeg2video", {"bf": "2", "g": "12"}, "mpeg"),
    "mpeg4_avi": VideoKind(".avi", "mpeg4", {"g": "12"}),
    "mpeg4_avi_b_frames": VideoKind(".avi", "mpeg4", {"bf": "2", "g": "12"}),
    "mpeg4_mp4_b_frames": VideoKind(".mp4", "mpeg4", {"bf": "2", "g": "12"}),
    "vp9_webm": VideoKind(".webm", "libvpx-vp9", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "gif": VideoKind(".gif", "gif", {}),
}


def write_video(path: Path, kind: VideoKind, num_frames: int, *, rate: int = 25, cut: int = 0) -> None:
    """Encode `num_frames` barcodes. With `cut`, the first frames get negative times, which mp4 turns into an edit list."""
    options = {"avoid_negative_ts": "disabled"} if cut else {}
    with av.open(str(path), "w", format=kind.container, container_options=options) as container:
        stream = container.add_stream(kind.codec, rate=rate, options=kind.options)
        stream.width, stream.height = BITS * CELL, 2 * CELL
        stream.pix_fmt = "rgb8" if kind.codec == "gif" else "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = number - cut, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
