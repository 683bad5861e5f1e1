"""Boxes land where they belong, in the colour of their word; pictures are reproducible."""

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from vlp.pictures import WORD_COLORS, Mark, draw_boxes, draw_curves, word_color

WHITE = np.full((60, 80, 3), 255, dtype=np.uint8)


def encoded(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def decoded(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def test_box_of_the_original_frame_is_scaled_to_the_stored_one():
    mark = Mark((80, 60, 240, 180), word=1, weight=0.0)
    picture = decoded(draw_boxes(encoded(WHITE), [mark], original_size_px=(320, 240), file_format="PNG"))
    inside = np.argwhere((picture != 255).any(axis=2))
    assert inside.min(axis=0).tolist() == [15, 20]
    assert inside.max(axis=0).tolist() == [45, 60]
    assert tuple(picture[15, 20]) == ImageColor.getrgb(word_color(1))
    assert (picture[16:45, 21:60] == 255).all()


def test_the_first_mark_is_on_top_and_labels_stay_inside():
    marks = [Mark((0, 0, 79, 59), word=0, label="été"), Mark((0, 0, 79, 59), word=1)]
    picture = decoded(draw_boxes(encoded(WHITE), marks, original_size_px=(80, 60), file_format="PNG"))
    assert tuple(picture[59, 79]) == ImageColor.getrgb(word_color(0))
    assert picture.shape == (60, 80, 3)


def test_boxes_outside_the_frame_are_cut_at_its_edge():
    picture = draw_boxes(encoded(WHITE), [Mark((-50, -50, 900, 900), word=0)], original_size_px=(80, 60))
    assert decoded(picture).shape == (60, 80, 3)


def test_large_frames_shrink_and_keep_their_shape():
    picture = draw_boxes(encoded(np.zeros((400, 800, 3), np.uint8)), [], original_size_px=(800, 400), max_side_px=100)
    assert decoded(picture).shape == (50, 100, 3)


def test_an_unreadable_frame_is_named():
    with pytest.raises(ValueError, match="5 bytes"):
        draw_boxes(b"hello", [], original_size_px=(8, 8))


@pytest.mark.parametrize("file_format", ["png", "svg"])
def test_curves_are_reproducible_and_leave_out_absent_names(file_format):
    rows = [{"step": i, "loss": 1 / (i + 1), "global": 0.5} for i in range(5)]
    first, second = (draw_curves(rows, file_format=file_format, title="run") for _ in range(2))
    assert first == second
    if file_format == "svg":
        assert b">loss<" in first
        assert b">local<" not in first


def test_curves_of_nothing_are_an_empty_plot():
    assert draw_curves([]).startswith(b"<?xml")


def test_boxes_are_reproducible():
    marks = [Mark((5, 5, 40, 40), word=3, label="dog", weight=0.7)]
    assert draw_boxes(encoded(WHITE), marks, original_size_px=(80, 60)) == draw_boxes(
        encoded(WHITE), marks, original_size_px=(80, 60)
    )


def test_colours_repeat_after_the_palette():
    assert word_color(len(WORD_COLORS)) == word_color(0)
