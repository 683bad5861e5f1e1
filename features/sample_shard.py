"""One shard of the frame store: manifest rows in, JPEG frames and a ledger row for every clip out."""

from collections.abc import Iterator
from pathlib import Path

from features.clip_frames import ClipProblem, ClipTask, SampledClip, sample_clip
from features.corpora.clips import MediaRoot
from features.decoding_pool import Decode, DecodingPool, Outcome
from features.sampling import SamplingConfig
from storage.frame_store import FrameRow, FrameStoreWriter
from storage.ledger import LedgerRow
from storage.manifest import Manifest

__all__ = ["DecodingPool", "sample_shard"]

STAGE = "sample"


def sample_shard(
    manifest: Manifest,
    rows: range,
    media_root: Path,
    config: SamplingConfig,
    writer: FrameStoreWriter,
    pool: DecodingPool,
    *,
    decode: Decode = sample_clip,
) -> list[LedgerRow]:
    """Decode the clips of some rows into the writer (which the caller closes).

    Args:
        media_root: folder that `Clip.media` is relative to.
        decode: what a worker does with a clip; picklable.
    Returns:
        A ledger row per manifest row, in order; a clip that failed is in the ledger only.
    """
    folder = MediaRoot(Path(media_root))
    tasks: dict[int, ClipTask] = {}
    ledger: dict[int, LedgerRow] = {}
    for row in rows:
        clip = manifest.clip(row)
        media = folder.find(clip.media)
        if media.reason is not None:
            ledger[row] = LedgerRow(clip.clip_id, row, STAGE, "failed", media.reason, media.message)
            continue
        path = Path(media_root, media.path)
        tasks[row] = ClipTask(clip.clip_id, path, clip.kind, clip.start_seconds, clip.end_seconds, config)
    for row, outcome in _outcomes(tasks, pool, decode):
        ledger[row] = _record(row, outcome, writer)
    return [ledger[row] for row in rows]


def _outcomes(tasks: dict[int, ClipTask], pool: DecodingPool, decode: Decode) -> Iterator[tuple[int, Outcome]]:
    yield from zip(tasks, pool.run(tasks.values(), decode), strict=True)


def _record(row: int, outcome: Outcome, writer: FrameStoreWriter) -> LedgerRow:
    clip_id, result = outcome.task.clip_id, outcome.result
    if isinstance(result, ClipProblem):
        return LedgerRow(
            clip_id, row, STAGE, "failed", result.reason, result.message, outcome.attempts, outcome.seconds
        )
    writer.add(_frame_row(row, clip_id, result))
    return LedgerRow(clip_id, row, STAGE, "ok", attempts=outcome.attempts, seconds=outcome.seconds)


def _frame_row(row: int, clip_id: str, clip: SampledClip) -> FrameRow:
    return FrameRow(
        row=row,
        clip_id=clip_id,
        frame_indices=clip.frame_indices,
        frame_seconds=clip.frame_seconds,
        jpegs=clip.jpegs,
        original_size_px=clip.original_size_px,
        reader=clip.reader,
        num_source_frames=clip.num_source_frames,
        size_px=clip.size_px,
    )
