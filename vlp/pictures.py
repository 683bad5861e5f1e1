"""Pictures for the report: boxes on a frame, coloured by the word they are aligned with, and curves of a training run.

All functions return the bytes of an image file: equal arguments and library versions, equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

# Paul Tol's "bright" scheme without its grey, and two dark tones: apart for colour-blind eyes, under white text.
WORD_COLORS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#66ccee", "#ccbb44", "#994411", "#222255")


@dataclass(frozen=True)
class Mark:
    """One box to draw.

    Args:
        box: xyxy in pixels of the original frame.
        word: index of the word the region is aligned with; decides the colour.
        label: text at the box; "" for none.
        weight: in [0, 1]; a weaker alignment gets a thinner line.
    """

    box: tuple[float, float, float, float]
    word: int
    label: str = ""
    weight: float = 1.0


def word_color(word: int) -> str:
    """#rrggbb of a word by its index in the caption, the same in every picture and in the page around them."""
    return WORD_COLORS[word % len(WORD_COLORS)]


def draw_boxes(
    frame: bytes,
    marks: Sequence[Mark],
    *,
    original_size_px: tuple[int, int],
    max_side_px: int = 480,
    file_format: Literal["JPEG", "PNG"] = "JPEG",
) -> bytes:
    """Draw boxes over a frame.

    Args:
        frame: encoded image as the frame store keeps it, perhaps smaller than the original frame.
        marks: boxes in the original frame's pixels; the first is drawn on top.
        original_size_px: (width, height) of the original frame.
        max_side_px: the picture is shrunk to this side; a smaller frame keeps its size.
        file_format: of the returned bytes.
    Raises:
        ValueError: the frame is not an image Pillow can read.
    """
    try:
        image = Image.open(io.BytesIO(frame)).convert("RGB")
    except OSError as error:
        raise ValueError(f"the frame ({len(frame)} bytes) is not a readable image: {error}") from error
    image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    scale = (image.width / original_size_px[0], image.height / original_size_px[1])
    draw = ImageDraw.Draw(image)
    for mark in reversed(marks):
        _draw_mark(draw, mark, scale, image.size)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **({"quality": 88} if file_format == "JPEG" else {}))
    return buffer.getvalue()


def draw_curves(
    rows: Sequence[Mapping[str, float]],
    names: Sequence[str] = ("loss", "global", "local"),
    *,
    x: str = "step",
    title: str = "",
    size_px: tuple[int, int] = (480, 260),
    file_format: Literal["png", "svg"] = "svg",
) -> bytes:
    """Draw numbers over steps, one line per name.

    Args:
        rows: such as the lines of metrics.jsonl; a name that a row lacks has no point there.
        names: keys to draw; a name that no row has is left out.
        x: key of the horizontal axis.
        title: text above.
        size_px: (width, height).
        file_format: of the returned bytes.
    """
    dpi = 100
    with mpl.rc_context({"svg.hashsalt": "regionvlp", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(size_px[0] / dpi, size_px[1] / dpi), dpi=dpi, layout="constrained")
        axes = figure.add_subplot()
        for index, name in enumerate(names):
            points = [(row[x], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, color=word_color(index), linewidth=1.2)
        axes.set_xlabel(x)
        axes.set_title(title)
        axes.grid(alpha=0.25, linewidth=0.5)
        if axes.lines:
            axes.legend(frameon=False)
        canvas = FigureCanvasAgg(figure) if file_format == "png" else FigureCanvasSVG(figure)
        buffer = io.BytesIO()
        if file_format == "png":
            canvas.print_png(buffer, metadata={"Software": None})
        else:
            canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _draw_mark(draw: ImageDraw.ImageDraw, mark: Mark, scale: tuple[float, float], size: tuple[int, int]) -> None:
    x1, y1, x2, y2 = (
        min(max(round(value * scale[axis]), 0), size[axis] - 1)
        for value, axis in zip(mark.box, (0, 1, 0, 1), strict=True)
    )
    x2, y2 = max(x1, x2), max(y1, y2)
    color = word_color(mark.word)
    draw.rectangle((x1, y1, x2, y2), outline=color, width=1 + round(2 * min(max(mark.weight, 0.0), 1.0)))
    if mark.label:
        font = _font()
        left, top, right, bottom = draw.textbbox((0, 0), mark.label, font=font)
        at = (min(x1, max(size[0] - (right - left) - 4, 0)), max(y1 - (bottom - top) - 4, 0))
        draw.rectangle((at[0], at[1], at[0] + right - left + 4, at[1] + bottom - top + 4), fill=color)
        draw.text((at[0] + 2 - left, at[1] + 2 - top), mark.label, fill="white", font=font)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    """The font that matplotlib ships: the same on every machine, with more scripts than Pillow's own."""
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size=11)
