"""Layout of a region store's part: which Zarr arrays, of which shape, with which fill value.

One Zarr v3 group per part. Zarr shards hold floor(1024 / num_frames) clips. Arrays with a region axis have inner chunks
of one frame; the small per-frame arrays are one chunk per Zarr shard, because 1,024 chunks of two bytes take 96 ms to
write and 63 ms to read where one takes 1.6 and 0.6 ms, and a reader needs `num_regions` of a whole part at once.
Every chunk and every shard index carries a crc32c. Fill values are NaN and -1, so absent never looks like zero.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

_FRAMES_PER_ZARR_SHARD = 1024
NEVER_WRITTEN = -1
PER_REGION = ("features", "boxes", "scores", "class_ids", "attribute_ids", "attribute_scores")
PER_FRAME = ("num_regions", "frame_seconds", "image_size_px", "whole_image")
ARRAYS = (*PER_REGION, *PER_FRAME)


@dataclass(frozen=True)
class RegionStoreSpec:
    """Shape of a region store; part of its identity.

    Args:
        num_frames: frames per clip, F.
        max_regions: regions per frame, R.
        feature_dim: length of a region's feature, D (from the detector).
        dtype: type of the stored features.
    """

    num_frames: int
    max_regions: int
    feature_dim: int
    dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        for name in ("num_frames", "max_regions", "feature_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"region store: {name} is {getattr(self, name)}, must be at least 1")
        if self.dtype not in ("float16", "float32"):
            raise ValueError(f"region store: dtype is {self.dtype!r}, allowed are 'float16' and 'float32'")

    @property
    def clips_per_zarr_shard(self) -> int:
        return max(1, _FRAMES_PER_ZARR_SHARD // self.num_frames)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str, float | int]]:
        """Array name -> (shape of one clip, dtype, fill value)."""
        frames, regions = self.num_frames, self.max_regions
        per_region = (frames, regions)
        return {
            "features": ((*per_region, self.feature_dim), self.dtype, np.nan),
            "boxes": ((*per_region, 4), "float32", np.nan),
            "scores": (per_region, "float32", np.nan),
            "class_ids": (per_region, "int32", -1),
            "attribute_ids": (per_region, "int32", -1),
            "attribute_scores": (per_region, "float32", np.nan),
            "num_regions": ((frames,), "int16", NEVER_WRITTEN),
            "frame_seconds": ((frames,), "float64", np.nan),
            "image_size_px": ((frames, 2), "int32", -1),
            "whole_image": ((frames,), "int8", -1),
        }

    def empty(self, num_clips: int) -> dict[str, np.ndarray]:
        """Buffers of `num_clips` never written clips."""
        return {name: np.full((num_clips, *shape), fill, dtype) for name, (shape, dtype, fill) in self.arrays().items()}


def create_part(folder: Path, spec: RegionStoreSpec, rows: range) -> dict[str, zarr.Array]:
    """Create the group of a part; nothing is written to its arrays yet."""
    attributes = {"region_store": {**spec.as_dict(), "first_row": rows.start, "num_rows": len(rows)}}
    group = zarr.open_group(folder, mode="w", zarr_format=3, attributes=attributes)
    clips = min(spec.clips_per_zarr_shard, len(rows))
    arrays = {}
    for name, (shape, dtype, fill) in spec.arrays().items():
        inner = (1, 1, *shape[1:]) if name in PER_REGION else (clips, *shape)
        arrays[name] = group.create_array(
            name,
            shape=(len(rows), *shape),
            shards=(clips, *shape),
            chunks=inner,
            dtype=dtype,
            fill_value=fill,
            compressors=[Crc32cCodec()],
            dimension_names=_dimension_names(name, len(shape)),
            config={"write_empty_chunks": True},  # else a chunk of fill values is left out and looks absent
        )
    return arrays


def _dimension_names(name: str, clip_dims: int) -> tuple[str, ...]:
    names = ("clip", "frame", "region", "value") if name in PER_REGION else ("clip", "frame", "value")
    return names[: clip_dims + 1]
