"""Named frames of one video file: decord where it is exact, PyAV by packet index elsewhere, full decoding as last resort.

decord 0.6 returns wrong frames, without an error, on edit lists, transport streams, MPEG-2 and MPEG-4 with B-frames.
It is asked only for containers and codecs where it was measured exact, and its own frame times must agree with the
packets' before its pixels are believed. It is native and unmaintained: `sample_shard` runs this in killable processes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.media_errors import MediaError
from features.packet_index import (
    InexactError,
    PacketIndex,
    all_frame_times,
    frames_by_counting,
    frames_by_index,
    scan_packets,
)
from storage.ledger import Reason

DECORD_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
DECORD_CODECS = ("h264", "hevc", "vp8", "vp9")
MAX_PIXELS = 100_000_000

Picker = Callable[[int], Sequence[int] | np.ndarray]


@dataclass(frozen=True)
class DecodedFrames:
    """frames: k arrays (H, W, 3) uint8 RGB, upright. indices: (k,) frame numbers in the file, ascending.

    seconds: (k,) after the file's first frame. num_source_frames: frames of the window picked from.
    reader: "decord", "pyav" (packet index), "pyav-full" or "pillow".
    """

    frames: list[np.ndarray]
    indices: np.ndarray
    seconds: np.ndarray
    num_source_frames: int
    reader: str


@dataclass(frozen=True)
class Window:
    """[start, end) of a video in seconds; None = from its start, to its end."""

    start: float | None = None
    end: float | None = None

    def numbers(self, seconds: np.ndarray) -> np.ndarray:
        """Frame numbers inside. Raises MediaError if there are none."""
        inside = np.ones(len(seconds), bool)
        if self.start is not None:
            inside &= seconds >= self.start
        if self.end is not None:
            inside &= seconds < self.end
        numbers = np.flatnonzero(inside)
        if not len(numbers):
            last = float(seconds[-1])
            raise MediaError(
                Reason.NO_FRAMES, f"no frame in [{self.start}, {self.end}) s; the last one is at {last:.3f} s"
            )
        return numbers


def read_frames(
    path: Path,
    pick: Picker | Sequence[int],
    *,
    window: Window | None = None,
    reader: str = "auto",
    max_pixels: int = MAX_PIXELS,
) -> DecodedFrames:
    """Decode some frames of a video.

    Args:
        pick: frame numbers within the window, ascending, or a function from the window's length to them.
        reader: "auto", or "pyav" to leave decord out.
    Raises:
        MediaError: unreadable, truncated, or no frame in the window.
        IndexError: a number beyond the window.
    """
    window = window or Window()
    index = scan_packets(path, max_pixels)
    if index.exact:
        inside = window.numbers(index.seconds)
        wanted = _chosen(pick, inside)
        found = _by_decord(path, index, wanted) if reader == "auto" else None
        name = "decord"
        if found is None:
            found, name = _by_index(path, index, wanted, max_pixels), "pyav"
        if found is not None:
            return DecodedFrames(found, wanted, index.seconds[wanted], len(inside), name)
    seconds = all_frame_times(path, max_pixels)
    inside = window.numbers(seconds)
    wanted = _chosen(pick, inside)
    return DecodedFrames(
        frames_by_counting(path, wanted, max_pixels), wanted, seconds[wanted], len(inside), "pyav-full"
    )


def _chosen(pick: Picker | Sequence[int], inside: np.ndarray) -> np.ndarray:
    picked = np.asarray(pick(len(inside)) if callable(pick) else pick, np.int64)
    if len(picked) and (picked.min() < 0 or picked.max() >= len(inside)):
        raise IndexError(f"frame {picked.max()} asked for, the clip has {len(inside)}")
    return inside[picked]


def _by_index(path: Path, index: PacketIndex, wanted: np.ndarray, max_pixels: int) -> list[np.ndarray] | None:
    try:
        return frames_by_index(path, index, wanted, max_pixels)
    except InexactError:
        return None


def _by_decord(path: Path, index: PacketIndex, wanted: np.ndarray) -> list[np.ndarray] | None:
    """Frames from decord, or None where it is not known to be exact, disagrees with the packets or fails."""
    if not _decord_is_exact(index):
        return None
    import decord  # native: loaded in the worker that needs it, not with the module

    try:
        video = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        if len(video) != len(index):
            return None
        starts = video.get_frame_timestamp(wanted.tolist())[:, 0]
        if np.abs(starts - index.seconds[wanted]).max() > _tolerance(index):
            return None
        return list(video.get_batch(wanted.tolist()).asnumpy())
    except (decord.DECORDError, RuntimeError, IndexError):
        return None


def _decord_is_exact(index: PacketIndex) -> bool:
    """Plain mp4, mov, mkv and webm: no discarded packets and no start offset, which are the marks of an edit list."""
    plain = index.num_discarded == 0 and index.start_seconds == 0 and index.times[0] == 0
    return plain and index.container in DECORD_CONTAINERS and index.codec in DECORD_CODECS


def _tolerance(index: PacketIndex) -> float:
    """Seconds that decord's float32 times may differ: less than half the smallest distance of two frames."""
    return 0.4 * float(np.diff(index.seconds).min()) if len(index) > 1 else 1e-3
