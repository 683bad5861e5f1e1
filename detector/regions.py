"""Regions of one frame as plain arrays: what a detector returns and everything downstream stores."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Regions:
    """Regions of one frame, most confident first. n >= 0 is the number of regions, D the detector's `feature_dim`.

    Attributes:
        boxes: (n, 4) float32 xyxy px of the frame handed to the detector, clipped to it.
        scores: (n,) float32 probability of `class_ids`, in (0, 1].
        class_ids: (n,) int32 indices into the class vocabulary.
        attribute_ids: (n,) int32 the most probable attribute of each region.
        attribute_scores: (n,) float32 its probability, in (0, 1].
        features: (n, D) float32 pooled from the region that `boxes` names.
        whole_image: True if nothing was detected and the only region is the whole frame; its class, attribute and scores are then the
            network's guess for the frame, whatever the threshold.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    attribute_ids: np.ndarray
    attribute_scores: np.ndarray
    features: np.ndarray
    whole_image: bool = False

    def __len__(self) -> int:
        return len(self.boxes)
