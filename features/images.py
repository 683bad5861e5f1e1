"""Still images to upright 8-bit RGB, and frames to stored JPEG."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from features.media_errors import MediaError
from storage.ledger import Reason


def read_image(path: Path, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB: orientation applied, 16 bits scaled (not clipped), transparency laid on white, first frame only.

    Raises:
        MediaError: not an image, truncated, or more than max_pixels (checked before decoding).
    """
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            with Image.open(path) as image:
                if image.width * image.height > max_pixels:
                    raise MediaError(
                        Reason.UNREADABLE, f"{image.width} x {image.height} px exceed max_pixels {max_pixels}"
                    )
                return _rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise MediaError(Reason.UNREADABLE, str(error)) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(Reason.UNREADABLE, f"not a readable image: {error}") from error


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip 99% of it to white
        grey = np.clip(np.rint(np.asarray(image).astype(np.float64) / 257), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise MediaError(Reason.UNREADABLE, "floating-point image: its value range is not known")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return np.asarray(image.convert("RGB"))


def encode_frame(frame: np.ndarray, *, quality: int, max_side_px: int | None) -> tuple[bytes, tuple[int, int]]:
    """JPEG bytes of (H, W, 3) uint8 RGB and the stored (width, height); downscaled if its longer side is too long."""
    image = Image.fromarray(frame)
    longer = max(image.size)
    if max_side_px is not None and longer > max_side_px:
        scale = max_side_px / longer
        size = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue(), image.size


def decode_jpeg(content: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a stored frame."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))
