"""Small drawn scenes with exact boxes, and a network small enough to train inside a test."""

import numpy as np

from detector.config import DetectorConfig
from detector.training import Example

COLOURS = ((220, 40, 40), (40, 200, 60), (60, 80, 230))


def draw_example(index: int, *, side_px: int = 64) -> Example:
    """One or two filled squares or discs of a pure colour on a dark ground; class = shape, attribute = colour."""
    rng = np.random.default_rng(index)
    image = rng.integers(20, 50, (side_px, side_px, 3), dtype=np.uint8)
    y, x = np.mgrid[0:side_px, 0:side_px] + 0.5
    boxes, classes, attributes = [], [], []
    for half in range(1 + index % 2):  # one in the upper, one in the lower half: no overlap
        size = int(rng.integers(16, 28))
        left, top = (
            int(rng.integers(0, side_px - size)),
            int(rng.integers(0, side_px // 2 - size + 1)) + half * side_px // 2,
        )
        shape, colour = int(rng.integers(2)), int(rng.integers(3))
        inside = (x >= left) & (x < left + size) & (y >= top) & (y < top + size)
        if shape == 1:
            inside &= np.hypot(x - left - size / 2, y - top - size / 2) <= size / 2
        image[inside] = COLOURS[colour]
        boxes.append((left, top, left + size, top + size))
        classes.append(shape)
        attributes.append([colour])
    return Example(image, np.array(boxes, np.float32), np.array(classes), attributes)


def tiny_config() -> DetectorConfig:
    """The demo network made narrow, for 64 px frames with 2 classes and 3 attributes."""
    return DetectorConfig(
        num_classes=2,
        num_attributes=3,
        max_regions=5,
        batch_size=4,
        architecture={
            "input": {"min_side_px": 64, "max_side_px": 128},
            "backbone": {"stem_channels": 8, "stage_channels": (8, 16, 24), "res5_channels": 32},
            "proposals": {"hidden_channels": 16, "num_proposals": (40, 20)},
            "heads": {"pooler_size": 4, "sampled_regions": 16},
        },
    )
