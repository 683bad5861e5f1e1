"""Pixels, boxes and H.264 bytes of a demo scene.

Colour conversion is integer arithmetic and x264 runs with one thread: a scene gives the same bytes on every run.
"""

import colorsys
import io
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from features.corpora.demo_scenes import Scene, SceneObject
from features.corpora.demo_vocabulary import COLOURS, RADIUS

Plane = np.ndarray


@dataclass(frozen=True)
class RenderedScene:
    """frames (F, S, S, 3) uint8 RGB; boxes (F, n, 4) float32 xyxy px, the extent of each object's visible pixels."""

    frames: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray  # (F, n) visible share of each object's own pixels, in [0, 1]


def _half_planes(u: Plane, v: Plane, corners: list[tuple[float, float]]) -> Plane:
    """Signed "outsideness" of a convex polygon (clockwise on screen): the largest distance beyond any of its edges."""
    result = None
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        length = math.hypot(x1 - x0, y1 - y0)
        nx, ny = (y1 - y0) / length, -(x1 - x0) / length
        side = (u - x0) * nx + (v - y0) * ny
        result = side if result is None else np.maximum(result, side)
    return result


def _star(u: Plane, v: Plane) -> Plane:
    inner = 0.45
    fold = np.abs(np.mod(np.arctan2(u, -v) + math.pi / 5, 2 * math.pi / 5) - math.pi / 5)
    radius = np.hypot(u, v)
    x, y = radius * np.cos(fold), radius * np.sin(fold)  # tip at (1, 0), notch at inner * (cos 36, sin 36)
    notch_x, notch_y = inner * math.cos(math.pi / 5), inner * math.sin(math.pi / 5)
    length = math.hypot(1 - notch_x, notch_y)
    return ((x - 1) * notch_y + y * (1 - notch_x)) / length


def _heart(u: Plane, v: Plane) -> Plane:
    lobes = np.hypot(np.abs(u) - 0.42, v + 0.32) - 0.5
    body = _half_planes(u, v, [(0.0, -0.35), (0.82, -0.02), (0.0, 0.95), (-0.82, -0.02)])
    return np.minimum(lobes, body)


def _outside(shape: str, u: Plane, v: Plane) -> Plane:
    """Approximate signed distance to the shape in units of its radius, negative inside. u right, v down."""
    if shape == "circle":
        return np.hypot(u, v) - 0.98
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.74) - 0.24
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.78
    if shape == "triangle":
        return _half_planes(u, v, [(0.0, -0.98), (0.88, 0.7), (-0.88, 0.7)])
    if shape == "star":
        return _star(u, v)
    if shape == "cross":
        return np.minimum(np.maximum(np.abs(u) - 0.3, np.abs(v) - 0.92), np.maximum(np.abs(v) - 0.3, np.abs(u) - 0.92))
    if shape == "heart":
        return _heart(u, v)
    head = _half_planes(u, v, [(0.0, -0.78), (0.98, 0.0), (0.0, 0.78)])
    return np.minimum(head, np.maximum(np.abs(u + 0.4) - 0.5, np.abs(v) - 0.3))  # arrow, pointing right


def _pattern(texture: str, u: Plane, v: Plane) -> Plane:
    """True where the darker second colour shows."""
    if texture == "striped":
        return np.mod(u * 1.9, 1.0) > 0.5
    if texture == "dotted":
        return np.hypot(np.mod(u * 1.8, 1.0) - 0.5, np.mod(v * 1.8, 1.0) - 0.5) < 0.3
    if texture == "checkered":
        return (np.mod(u * 1.35, 1.0) > 0.5) ^ (np.mod(v * 1.35, 1.0) > 0.5)
    return np.zeros(u.shape, bool)


def _background(rng: random.Random, size_px: int) -> np.ndarray:
    """(S, S, 3) float32: two muted dark tones as a gradient, blobs, bands or tiles, with a little grain."""
    tones = []
    for _ in range(2):
        tone = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.35), rng.uniform(0.16, 0.46))
        tones.append(np.array(tone, np.float32) * 255)
    noise = np.random.RandomState(rng.getrandbits(32))
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32) / size_px
    angle = rng.uniform(0, 2 * math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    kind = rng.choice(("plain", "gradient", "bands", "tiles", "blobs"))
    if kind == "gradient":
        mix = (along - along.min()) / (along.max() - along.min())
    elif kind == "bands":
        mix = 0.3 + 0.3 * np.sin(along * rng.uniform(12, 30))
    elif kind == "tiles":
        count = rng.uniform(3, 8)
        mix = ((np.floor(x * count) + np.floor(y * count)) % 2) * 0.4
    elif kind == "blobs":
        coarse = noise.rand(5, 5).astype(np.float32)
        weights = _interpolation(size_px, 5)
        mix = weights @ coarse @ weights.T
    else:
        mix = np.zeros_like(x)
    grain = noise.randint(-5, 6, (size_px, size_px, 1)).astype(np.float32)
    return tones[0] + (tones[1] - tones[0]) * mix[..., None].astype(np.float32) + grain


def _interpolation(size_px: int, knots: int) -> np.ndarray:
    """(S, knots) weights of linear interpolation."""
    position = np.linspace(0, knots - 1, size_px)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(knots))).astype(np.float32)


def _colour_of(item: SceneObject, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """(3,) main and second colour, with a little variation from clip to clip."""
    main = np.array([min(255.0, max(0.0, c + rng.uniform(-10, 10))) for c in COLOURS[item.look.colour]], np.float32)
    return main, main * 0.42


def _patches(item: SceneObject, times: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The object alone: alpha (F, P, P), second-colour mask (F, P, P), top-left (x, y) corner (F, 2) in px."""
    radius = np.array([item.radius(t) * size_px for t in times], np.float32)
    centre = np.array([item.centre(t) for t in times], np.float32) * size_px
    half = math.ceil(float(radius.max())) + 2
    corner = np.floor(centre).astype(int) - half
    offset = np.arange(2 * half, dtype=np.float32) + 0.5
    x = (corner[:, 0, None] + offset - centre[:, 0, None])[:, None, :] / radius[:, None, None]
    y = (corner[:, 1, None] + offset - centre[:, 1, None])[:, :, None] / radius[:, None, None]
    angle = (item.angle + 2 * math.pi * item.turns * times).astype(np.float32)[:, None, None]
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = cos * x + sin * y, cos * y - sin * x
    outside = _outside(item.look.shape, u, v)
    alpha = np.clip(0.5 - outside * radius[:, None, None], 0, 1)
    inside_rim = outside < -0.1  # an unpatterned rim keeps the outline of a dark-striped shape on a dark background
    return alpha, _pattern(item.look.texture, u, v) & inside_rim, corner


def render(scene: Scene, *, size_px: int, num_frames: int) -> RenderedScene:
    """Draw all frames; later objects cover earlier ones."""
    rng = random.Random(scene.background_seed)
    times = np.linspace(0, 1, num_frames) if num_frames > 1 else np.zeros(1)
    pad = math.ceil(RADIUS["large"][1] * size_px) + 4
    side = size_px + 2 * pad  # patches may reach over the edge by their antialiasing rim
    canvas = np.zeros((num_frames, side, side, 3), np.float32)
    canvas[:, pad : pad + size_px, pad : pad + size_px] = _background(rng, size_px)
    owner = np.full((num_frames, side, side), -1, np.int8)
    painted = np.zeros((num_frames, len(scene.objects)), int)
    slots = []
    for index, item in enumerate(scene.objects):
        main, second = _colour_of(item, rng)
        still = item.start == item.end and item.radius_start == item.radius_end and item.turns == 0
        alpha, pattern, corner = _patches(item, times[:1] if still else times, size_px)
        colour = np.where(pattern[..., None], second, main)
        slots.append((corner, alpha.shape[1]))
        for frame in range(num_frames):
            at = 0 if still else frame
            x, y = corner[at] + pad
            window = np.s_[frame, y : y + alpha.shape[1], x : x + alpha.shape[1]]
            canvas[window] += alpha[at][..., None] * (colour[at] - canvas[window])
            mask = alpha[at] > 0.5
            owner[window][mask] = index
            painted[frame, index] = mask.sum()
    inner = np.s_[:, pad : pad + size_px, pad : pad + size_px]
    frames = np.clip(np.rint(canvas[inner]), 0, 255).astype(np.uint8)
    boxes, seen = _visible_extent(np.ascontiguousarray(owner[inner]), slots, num_frames)
    return RenderedScene(frames, boxes, seen / np.maximum(painted, 1))


def _visible_extent(owner: np.ndarray, slots: list, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """(F, n, 4) xyxy of the pixels each object owns, and their (F, n) number."""
    boxes = np.zeros((num_frames, len(slots), 4), np.float32)
    seen = np.zeros((num_frames, len(slots)), int)
    for index, (corner, width) in enumerate(slots):
        for frame in range(num_frames):
            x, y = np.maximum(corner[min(frame, len(corner) - 1)], 0)
            mask = owner[frame, y : y + width, x : x + width] == index
            seen[frame, index] = mask.sum()
            columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            if len(columns):
                boxes[frame, index] = (x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1)
    return boxes, seen


def _yuv420(frames: np.ndarray) -> np.ndarray:
    """(F, S, S, 3) uint8 RGB -> (F, S * 3 / 2, S) uint8 planar YUV 4:2:0, BT.601 limited range, integer arithmetic."""
    num, height, width, _ = frames.shape
    r, g, b = (frames[..., i].astype(np.int32) for i in range(3))
    luma = ((66 * r + 129 * g + 25 * b + 128) >> 8) + 16
    r, g, b = (p[:, 0::2, 0::2] + p[:, 1::2, 0::2] + p[:, 0::2, 1::2] + p[:, 1::2, 1::2] for p in (r, g, b))
    blue = ((-38 * r - 74 * g + 112 * b + 512) >> 10) + 128
    red = ((112 * r - 94 * g - 18 * b + 512) >> 10) + 128
    planes = [luma.reshape(num, -1), blue.reshape(num, -1), red.reshape(num, -1)]
    return np.concatenate(planes, axis=1).astype(np.uint8).reshape(num, height * 3 // 2, width)


def encode_h264(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write an H.264 mp4 of (F, H, W, 3) uint8 RGB frames, H and W even, atomically.

    No B-frames: the file then needs no edit list, and all readers agree on it.
    """
    frames = np.asarray(frames)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = {"preset": "veryfast", "crf": "18", "bf": "0", "x264-params": "threads=1:sliced-threads=0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1
        for planes in _yuv420(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)
