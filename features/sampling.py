"""Which frames of a clip are kept: K midpoints of K equal segments, or one random frame of each."""

import hashlib
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

PLACEMENT = {"placement": True}


class SamplingConfig(BaseModel):
    """Frames kept of each clip and the form they are stored in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(
        8, ge=1, le=512, description="frames per clip; a shorter clip keeps each of its frames once"
    )
    mode: Literal["uniform", "random"] = Field(
        "uniform",
        description="'uniform': midpoint of each segment; 'random': one frame of each segment, seeded per clip",
    )
    seed: int = Field(0, ge=0, description="seed of mode 'random', with the clip id")
    max_side_px: int | None = Field(None, ge=16, description="longer side after downscaling, px; null = as decoded")
    jpeg_quality: int = Field(95, ge=1, le=100, description="JPEG quality of stored frames")
    reader: Literal["auto", "pyav"] = Field(
        "auto", description="'auto': decord where it is exact, PyAV elsewhere; 'pyav': PyAV for every video"
    )
    max_pixels: int = Field(
        100_000_000, ge=1, le=170_000_000, description="largest image or video frame, pixels; larger ones are refused"
    )
    timeout_seconds: float = Field(
        60.0, gt=0, description="time one clip may take, seconds", json_schema_extra=PLACEMENT
    )


def _cut_points(n: int, k: int) -> np.ndarray:
    """(k + 1,) floor(linspace(0, n, k + 1)); segment i is [cut[i], cut[i + 1] - 1]."""
    if n < 1 or k < 1:
        raise ValueError(f"cannot take {k} of {n} frames; both must be at least 1")
    return np.floor(np.linspace(0, n, min(n, k) + 1)).astype(np.int64)


def uniform_midpoints(n: int, k: int) -> np.ndarray:
    """Indices of the middle frame of each of k equal segments of n frames, ascending; every frame once if n < k.

    Source: Cai et al. 2022, section 4.1; equal to the released sampler in validation mode.
    Raises:
        ValueError: n or k below 1.
    """
    cuts = _cut_points(n, k)
    return (cuts[:-1] + cuts[1:] - 1) // 2


def random_per_segment(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """One uniformly drawn frame of each of k equal segments of n frames, ascending; every frame once if n < k.

    Differs from the released sampler: that one never draws the last frame of a segment (so that with 8 frames and k = 1
    frame 7 is never seen) and raises IndexError on segments of one frame. Here every frame of a segment can be drawn.
    Raises:
        ValueError: n or k below 1.
    """
    cuts = _cut_points(n, k)
    return rng.integers(cuts[:-1], cuts[1:])


def pick_frames(config: SamplingConfig, clip_id: str, n: int) -> np.ndarray:
    """Indices kept of a clip of n frames. Random draws depend on (seed, clip id) alone, so a resumed run repeats them."""
    if config.mode == "uniform":
        return uniform_midpoints(n, config.num_frames)
    digest = hashlib.sha256(f"{config.seed}/{clip_id}".encode("utf-8", "surrogatepass")).digest()
    return random_per_segment(n, config.num_frames, np.random.default_rng(int.from_bytes(digest[:16], "big")))
