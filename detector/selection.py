"""Which regions of a frame are kept."""

import torch
from torch import Tensor
from torchvision.ops import nms

from detector.backend import Boxes, Instances
from detector.config import DetectorConfig


class NonFiniteError(FloatingPointError):
    """NaN or infinity in an image, in weights or in what a detector computed."""


def require_finite(what: str, values: Tensor) -> None:
    """Raise NonFiniteError unless all values are finite; detectron2 itself drops such boxes at inference without a word."""
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise NonFiniteError(
            f"detector: {bad} of {values.numel()} values of the {what} are not finite; the weights are damaged or training diverged"
        )


def select_regions(
    boxes: Tensor, probabilities: Tensor, image_size: tuple[int, int], config: DetectorConfig
) -> tuple[Instances, Tensor]:
    """Class-wise NMS, best surviving class of each region, then the `max_regions` most confident regions.

    Only pairs above the score threshold enter NMS: the same result as one NMS per class over all regions, measured 360-700 times
    faster with 1600 classes. Each region comes back at most once, as in bottom-up attention.

    Args:
        boxes: (n, 1 or C, 4) xyxy px of the scaled image: shared by all classes, or one box per class.
        probabilities: (n, C + 1), background last.
        image_size: (height, width) px of the scaled image; boxes are clipped to it.
    Returns:
        Instances with pred_boxes, scores, pred_classes, whole_image (all False); and (k,) the row of `boxes` each came from.
    """
    clipped = Boxes(boxes.reshape(-1, 4).clone())
    clipped.clip(image_size)
    solid = clipped.nonempty().view(boxes.shape[:2])
    clipped_boxes = clipped.tensor.view(boxes.shape)
    scores = probabilities[:, :-1]
    rows, classes = ((scores > config.score_threshold) & solid).nonzero(as_tuple=True)
    pair_boxes = clipped_boxes[rows, classes if boxes.shape[1] > 1 else torch.zeros_like(classes)]
    pair_scores = scores[rows, classes]
    keep = class_wise_nms(pair_boxes, pair_scores, classes, config.nms_threshold)
    keep = _first_of_each(rows, keep)[: config.max_regions]
    found = Instances(image_size)
    found.pred_boxes = Boxes(pair_boxes[keep])
    found.scores = pair_scores[keep]
    found.pred_classes = classes[keep]
    found.whole_image = torch.zeros(len(keep), dtype=torch.bool, device=keep.device)
    return found, rows[keep]


def class_wise_nms(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that no better box of their class overlaps by more than `threshold`, best first; ties by index.

    Classes are set apart by shifting their boxes, in double precision: in single precision 1600 shifts of 1000 px would round
    coordinates to 1/8 px.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    if not len(order):
        return order
    shift = classes.double() * (float(boxes.max()) + 1.0)
    # Ranks instead of scores: whatever order nms gives equal scores, it cannot differ from ours.
    ranks = torch.arange(len(order), 0, -1, dtype=torch.float64, device=boxes.device)
    kept = nms((boxes.double() + shift[:, None])[order], ranks, threshold)
    return order[kept]


def _first_of_each(rows: Tensor, keep: Tensor) -> Tensor:
    """`keep` without the entries whose region (row) came earlier in it."""
    seen: set[int] = set()
    first = [not (row in seen or seen.add(row)) for row in rows[keep].tolist()]
    return keep[torch.tensor(first, dtype=torch.bool, device=keep.device)]
