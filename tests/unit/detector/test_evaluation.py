"""Average precision and attribute accuracy on hand-made detections."""

import math

import numpy as np
import pytest

from detector.evaluation import attribute_hits, box_precision, evaluate_detector, pairwise_iou
from detector.regions import Regions
from detector.training import Example

IMAGE = np.zeros((100, 100, 3), np.uint8)


def regions(boxes: list, class_ids: list[int], scores: list[float], attribute_ids: list[int] | None = None) -> Regions:
    n = len(boxes)
    return Regions(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        class_ids=np.array(class_ids, np.int32),
        attribute_ids=np.array(attribute_ids or [0] * n, np.int32),
        attribute_scores=np.ones(n, np.float32),
        features=np.zeros((n, 1), np.float32),
    )


def test_perfect_and_shifted_boxes() -> None:
    example = Example(IMAGE, np.array([[10, 10, 50, 50]]), np.array([1]), [[0]])
    exact = box_precision([regions([[10, 10, 50, 50]], [1], [0.9])], [example], num_classes=2)
    assert exact == pytest.approx({"AP": 1.0, "AP50": 1.0, "AP75": 1.0})
    # IoU 40 * 26 / (1600 + 1600 - 40 * 26 ...) : shifted by 10 px -> 1200 / 2000 = 0.6, right at 0.50, 0.55 and 0.60
    shifted = box_precision([regions([[20, 10, 60, 50]], [1], [0.9])], [example], num_classes=2)
    assert shifted["AP50"] == pytest.approx(1.0)
    assert shifted["AP75"] == 0.0
    assert shifted["AP"] == pytest.approx(0.3)


def test_a_confident_false_alarm_halves_the_precision() -> None:
    example = Example(IMAGE, np.array([[10, 10, 50, 50]]), np.array([0]), [[0]])
    found = regions([[60, 60, 90, 90], [10, 10, 50, 50]], [0, 0], [0.9, 0.8])
    assert box_precision([found], [example], num_classes=1)["AP50"] == pytest.approx(0.5)


def test_wrong_class_and_nothing_found_score_zero() -> None:
    example = Example(IMAGE, np.array([[10, 10, 50, 50]]), np.array([0]), [[0]])
    assert box_precision([regions([[10, 10, 50, 50]], [1], [0.9])], [example], num_classes=2)["AP50"] == 0.0
    assert box_precision([regions([], [], [])], [example], num_classes=2) == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}


def test_no_ground_truth_is_not_a_number() -> None:
    empty = Example(IMAGE, np.zeros((0, 4)), np.zeros(0, int), [])
    scores = box_precision([regions([[10, 10, 50, 50]], [1], [0.9])], [empty], num_classes=2)
    assert all(math.isnan(value) for value in scores.values())


def test_attribute_hits_by_hand() -> None:
    example = Example(
        IMAGE,
        np.array([[0, 0, 20, 20], [40, 40, 80, 80], [0, 60, 20, 80]]),
        np.array([0, 1, 0]),
        [[2, 5], [3], []],
    )
    found = regions(
        [
            [0, 0, 20, 19],  # matches the first box; attribute 5 is one of its two
            [0, 0, 20, 20],  # the first box is taken
            [41, 40, 80, 80],  # matches the second although its class differs; attribute 2 is wrong
            [0, 60, 20, 80],  # matches the third, which has no attributes
            [60, 0, 80, 20],  # matches nothing
        ],
        [0, 0, 0, 0, 0],
        [0.9, 0.8, 0.7, 0.6, 0.5],
        [5, 2, 2, 2, 2],
    )
    assert attribute_hits(found, example) == [True, False]


def test_pairwise_iou_by_hand() -> None:
    first, second = np.array([[0, 0, 10, 10.0]]), np.array([[5, 0, 15, 10.0], [20, 20, 30, 30], [0, 0, 10, 10]])
    np.testing.assert_allclose(pairwise_iou(first, second), [[1 / 3, 0, 1]])


def test_trained_detector_scores_above_chance(trained, examples) -> None:
    scores = evaluate_detector(trained[0], examples)
    assert set(scores) == {"AP", "AP50", "AP75", "attribute_accuracy"}
    assert scores["AP50"] > 0.3
    assert scores["attribute_accuracy"] > 0.8  # three pure colours
