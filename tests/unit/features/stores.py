"""Small real stores for tests: a manifest over some files, its frames, their regions."""

from pathlib import Path

from features.corpora.clips import media_kind
from features.sample_shard import DecodingPool, sample_shard
from features.sampling import SamplingConfig
from storage.frame_store import FrameStore, FrameStoreWriter
from storage.ledger import LedgerRow
from storage.manifest import Clip, Manifest
from storage.shards import PartSet, ShardPlan


def manifest_of(folder: Path, media: dict[str, str], **fields: object) -> Manifest:
    """Manifest of {clip id: path}."""
    clips = [
        Clip(clip_id=key, media=path, kind=media_kind(path), captions=("x",), split="test", **fields)
        for key, path in media.items()
    ]
    return Manifest.write(folder / "manifest.parquet", clips)


def sample(
    folder: Path,
    manifest: Manifest,
    root: Path,
    config: SamplingConfig,
    *,
    workers: int = 1,
    rows_per_shard: int = 1000,
    **how,
) -> tuple[FrameStore, list[LedgerRow]]:
    """Sample every clip into a frame store below `folder`."""
    folder.mkdir(exist_ok=True)
    parts = PartSet(folder, ShardPlan(len(manifest), rows_per_shard), "f" * 64)
    ledger = []
    with DecodingPool(workers) as pool:
        for shard in parts.pending():
            with parts.claim(shard):
                staging = parts.staging(shard)
                writer = FrameStoreWriter(staging)
                rows = sample_shard(manifest, parts.plan.range_of(shard), root, config, writer, pool, **how)
                writer.close()
                parts.commit(shard, staging, ledger=rows, facts={})
                ledger += rows
    return FrameStore(folder), ledger
