"""Frames on their way into the network: checked, reordered, scaled."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detector.config import InputConfig
from detector.selection import NonFiniteError

SMALLEST_SIDE_PX = 16  # one cell of the coarsest feature map


def check_image(image: np.ndarray, name: str) -> None:
    """Raise unless `image` is (H, W, 3) uint8, or float with finite values in [0, 255].

    Raises:
        TypeError: not an array of such a type.
        ValueError: another shape, or values outside the range.
        NonFiniteError: NaN or infinity.
    """
    if not isinstance(image, np.ndarray) or (image.dtype != np.uint8 and image.dtype.kind != "f"):
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"{name}: expected a numpy array of uint8 (or of floats in 0-255), found {found}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"{name}: expected shape (height, width, 3) in RGB, found {image.shape}")
    if image.dtype == np.uint8:
        return
    if not np.isfinite(image).all():
        raise NonFiniteError(f"{name}: holds NaN or infinite pixels; expected finite values in 0-255")
    if image.min() < 0 or image.max() > 255:
        raise ValueError(f"{name}: pixels reach from {image.min()} to {image.max()}, expected 0-255")


def scaled_size(height: int, width: int, config: InputConfig) -> tuple[int, int]:
    """Height and width the network sees: the shorter side at `min_side_px` unless the longer would exceed `max_side_px`.

    Raises:
        ValueError: so elongated that the shorter side would fall below 16 px.
    """
    scale = min(config.min_side_px / min(height, width), config.max_side_px / max(height, width))
    size = (round(height * scale), round(width * scale))
    if min(size) < SMALLEST_SIDE_PX:
        raise ValueError(
            f"an image of {width}x{height} px would be scaled to {size[1]}x{size[0]} px, "
            f"a side below {SMALLEST_SIDE_PX} px; crop it, its sides may differ by a factor of "
            f"{config.max_side_px / SMALLEST_SIDE_PX:.0f} at most"
        )
    return size


def network_input(image: np.ndarray, config: InputConfig, device: torch.device) -> Tensor:
    """(3, h, w) float32 in the network's channel order and size, 0-255; the network subtracts its mean itself.

    Where a frame has the right size already it is passed on untouched.
    """
    pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).float()
    if config.channels == "BGR":
        pixels = pixels.flip(0)
    size = scaled_size(image.shape[0], image.shape[1], config)
    if size == tuple(pixels.shape[1:]):
        return pixels.contiguous()
    scaled = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False, antialias=config.antialias)
    return scaled[0]
