"""Still images: everything that Pillow alone would get silently wrong."""

import io

import numpy as np
import pytest
from PIL import Image

from features.images import decode_jpeg, encode_frame, read_image
from features.media_errors import MediaError

MAX_PIXELS = 10_000_000
HALVES = np.zeros((20, 40, 3), np.uint8)
HALVES[:, 20:] = (250, 120, 10)


def test_plain_png_is_exact(tmp_path):
    Image.fromarray(HALVES).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", MAX_PIXELS), HALVES)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 clockwise to display"
    Image.fromarray(HALVES).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", MAX_PIXELS), np.rot90(HALVES, -1))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", MAX_PIXELS)
    np.testing.assert_array_equal(read[..., 0], np.arange(256).reshape(16, 16))


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", MAX_PIXELS)
    assert (read[:2] == 0).all()
    assert (read[2:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(HALVES).convert(mode).save(path)
    assert read_image(path, MAX_PIXELS).shape == (20, 40, 3)


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 255)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif", MAX_PIXELS).max() == 0


def test_bombs_are_refused_before_decoding(tmp_path):
    for side in (4000, 20_000):  # 16 and 400 megapixels from some kilobytes; Pillow alone decodes the first
        path = tmp_path / f"{side}.png"
        Image.new("1", (side, side)).save(path)
        with pytest.raises(MediaError, match=r"px exceed max_pixels|exceeds limit"):
            read_image(path, MAX_PIXELS)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 nothing more"])
def test_rubbish_is_unreadable(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(MediaError, match="not a readable image") as error:
        read_image(tmp_path / "a.jpg", MAX_PIXELS)
    assert error.value.reason == "unreadable"


def test_truncated_jpeg_is_unreadable(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue()[:1500])
    with pytest.raises(MediaError, match="not a readable image"):
        read_image(tmp_path / "a.jpg", MAX_PIXELS)


def test_every_cc3m_image_is_read(test_data):
    paths = sorted((test_data / "data/cc3m_mini/images").iterdir())
    assert len(paths) == 50
    assert all(read_image(path, MAX_PIXELS).ndim == 3 for path in paths)


def test_stored_frames_are_downscaled_and_deterministic():
    frame = np.random.default_rng(0).integers(0, 255, (60, 200, 3), np.uint8)
    content, size = encode_frame(frame, quality=95, max_side_px=100)
    assert size == (100, 30)
    assert decode_jpeg(content).shape == (30, 100, 3)
    assert encode_frame(frame, quality=95, max_side_px=100)[0] == content
    assert encode_frame(frame, quality=95, max_side_px=200)[1] == (200, 60)
