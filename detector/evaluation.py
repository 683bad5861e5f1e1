"""How good a detector is: COCO box AP and attribute accuracy on annotated frames.

pycocotools is called directly: detectron2's COCOEvaluator wraps the same code but wants a global dataset catalog and JSON files.
"""

import contextlib
import io
from collections.abc import Iterable, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.inference import RegionDetector
from detector.regions import Regions
from detector.training import Example

MATCH_IOU = 0.5


def evaluate_detector(detector: RegionDetector, examples: Sequence[Example]) -> dict[str, float]:
    """Scores in [0, 1] on annotated frames; NaN where there is nothing to score.

    Returns:
        AP (mean over IoU 0.50 to 0.95), AP50, AP75: COCO's, all object sizes, `max_regions` per frame at most.
        attribute_accuracy: see `attribute_hits`.
    """
    found: list[Regions] = []
    size = detector.config.batch_size
    for start in range(0, len(examples), size):
        images = [examples[i].image for i in range(start, min(start + size, len(examples)))]
        found += detector.detect(images, whole_image_when_empty=False)
    scores = box_precision(found, examples, num_classes=detector.config.num_classes)
    hits = [hit for regions, example in zip(found, examples) for hit in attribute_hits(regions, example)]
    scores["attribute_accuracy"] = float(np.mean(hits)) if hits else float("nan")
    return scores


def box_precision(found: Sequence[Regions], examples: Iterable[Example], *, num_classes: int) -> dict[str, float]:
    """COCO's AP, AP50 and AP75 of regions against ground truth, in [0, 1]."""
    truth, results, images = [], [], []
    for image_id, (regions, example) in enumerate(zip(found, examples)):
        height, width = example.image.shape[:2]
        images.append({"id": image_id, "height": height, "width": width})
        for box, class_id in zip(np.asarray(example.boxes, float).reshape(-1, 4), example.class_ids):
            entry = _coco_entry(image_id, box, class_id)
            # ids from 1: COCOeval takes a match with id 0 for no match
            truth.append({**entry, "id": len(truth) + 1, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0})
        for box, class_id, score in zip(regions.boxes.astype(float), regions.class_ids, regions.scores):
            results.append({**_coco_entry(image_id, box, class_id), "score": float(score)})
    if not truth:
        return dict.fromkeys(("AP", "AP50", "AP75"), float("nan"))
    if not results:
        return dict.fromkeys(("AP", "AP50", "AP75"), 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        annotations = COCO()
        annotations.dataset = {
            "info": {},
            "images": images,
            "annotations": truth,
            "categories": [{"id": i, "name": str(i)} for i in range(num_classes)],
        }
        annotations.createIndex()
        evaluation = COCOeval(annotations, annotations.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(("AP", "AP50", "AP75"), evaluation.stats[:3])}


def _coco_entry(image_id: int, box: np.ndarray, class_id: int) -> dict:
    x1, y1, x2, y2 = (float(v) for v in box)
    return {"image_id": image_id, "category_id": int(class_id), "bbox": [x1, y1, x2 - x1, y2 - y1]}


def attribute_hits(regions: Regions, example: Example) -> list[bool]:
    """Whether the attribute of each matched region is one of its object's attributes.

    A region is matched, most confident first, to the free ground-truth box it overlaps most, if their IoU is at least 0.5, whatever
    the classes; unmatched regions and objects without attributes do not count.
    """
    hits = []
    free = np.ones(len(example.boxes), bool)
    overlaps = pairwise_iou(regions.boxes, np.asarray(example.boxes, float).reshape(-1, 4))
    for row, attribute_id in zip(overlaps, regions.attribute_ids):
        row = np.where(free, row, 0.0)
        if not len(row) or row.max() < MATCH_IOU:
            continue
        best = int(row.argmax())
        free[best] = False
        if len(example.attribute_ids[best]):
            hits.append(int(attribute_id) in {int(one) for one in example.attribute_ids[best]})
    return hits


def pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union of xyxy boxes (n, 4) and (m, 4) with positive areas."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)
