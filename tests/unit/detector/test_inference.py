"""What a detector returns, and what it refuses."""

import numpy as np
import pytest
import torch

from detector.backend import Boxes
from detector.config import DetectorConfig
from detector.images import scaled_size
from detector.inference import MissingWeightsError, RegionDetector
from detector.regions import Regions
from detector.selection import NonFiniteError

FIELDS = ("boxes", "scores", "class_ids", "attribute_ids", "attribute_scores", "features")


def assert_close(first: Regions, second: Regions) -> None:
    assert first.whole_image == second.whole_image
    np.testing.assert_array_equal(first.class_ids, second.class_ids)
    np.testing.assert_array_equal(first.attribute_ids, second.attribute_ids)
    for name in ("boxes", "scores", "attribute_scores", "features"):
        # kernels for another batch size may sum in another order: float32 rounding, no more
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-4, atol=1e-4)


def test_fields_have_the_promised_shapes_types_and_order(trained, examples) -> None:
    detector, _ = trained
    for regions, example in zip(detector.detect([e.image for e in examples]), examples):
        n = len(regions)
        assert 1 <= n <= detector.config.max_regions
        assert regions.boxes.shape == (n, 4)
        assert regions.features.shape == (n, detector.feature_dim)
        assert [getattr(regions, name).dtype.name for name in FIELDS] == [
            *("float32", "float32", "int32", "int32", "float32", "float32")
        ]
        height, width = example.image.shape[:2]
        assert (regions.boxes >= 0).all()
        assert (regions.boxes <= (width, height, width, height)).all()
        assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
        assert (np.diff(regions.scores) <= 0).all()
        assert (regions.class_ids < 2).all()
        assert (regions.attribute_ids < 3).all()


def test_a_batch_gives_what_single_frames_give(trained, examples) -> None:
    detector, _ = trained
    images = [e.image for e in examples[:6]]
    images.insert(2, np.ascontiguousarray(images[0][:40]))  # another size in between
    together = detector.detect(images)
    for image, regions in zip(images, together):
        assert_close(detector.detect([image])[0], regions)


def test_detection_is_deterministic(trained, examples) -> None:
    detector, _ = trained
    images = [e.image for e in examples[:5]]
    for first, second in zip(detector.detect(images), detector.detect(images)):
        for name in FIELDS:
            assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_features_are_pooled_from_the_returned_boxes(trained, examples) -> None:
    detector, _ = trained
    model = detector._model
    image = torch.from_numpy(examples[3].image.copy()).permute(2, 0, 1).float()
    regions = detector.detect([examples[3].image])[0]
    with torch.inference_mode():
        maps = model.backbone(model.preprocess_image([{"image": image}]).tensor)
        pooled = model.roi_heads.pool([maps["res4"]], [Boxes(torch.from_numpy(regions.boxes))])
    np.testing.assert_allclose(regions.features, pooled.numpy(), rtol=1e-5, atol=1e-6)


def test_proposal_mode_returns_boxes_and_features_of_the_same_proposals(tiny_config, examples) -> None:
    config = DetectorConfig.model_validate(
        tiny_config.model_dump() | {"score_threshold": 0.0, "preset": "demo"} | _region(tiny_config, "proposal")
    )
    detector = RegionDetector(config, None, allow_random=True)
    images = [e.image for e in examples[:2]]
    batch = [{"image": torch.from_numpy(image.copy()).permute(2, 0, 1).float()} for image in images]
    with torch.inference_mode():
        inputs = detector._model.preprocess_image(batch)
        maps = detector._model.backbone(inputs.tensor)
        proposals, _ = detector._model.proposal_generator(inputs, maps, None)
        for index, regions in enumerate(detector.detect(images)):
            distance = np.abs(regions.boxes[:, None] - proposals[index].proposal_boxes.tensor.numpy()[None]).sum(2)
            assert (distance.min(1) == 0).all()
            assert len(set(distance.argmin(1))) == len(regions)  # each proposal at most once
            pooled = detector._model.roi_heads.pool(
                [maps["res4"][index : index + 1]], [Boxes(torch.from_numpy(regions.boxes))]
            )
            np.testing.assert_allclose(regions.features, pooled.numpy(), rtol=1e-5, atol=1e-6)


def _region(config: DetectorConfig, region: str) -> dict:
    architecture = config.architecture.model_dump()
    architecture["heads"]["region"] = region
    return {"architecture": architecture}


@pytest.mark.parametrize("region", ["proposal", "refined"])
def test_a_frame_without_detections_gives_one_whole_image_region(tiny_config, examples, region: str) -> None:
    config = DetectorConfig.model_validate(
        tiny_config.model_dump() | {"score_threshold": 0.99} | _region(tiny_config, region)
    )
    detector = RegionDetector(config, None, allow_random=True)
    frame = np.ascontiguousarray(examples[0].image[:48])
    for regions in detector.detect([frame, frame]):
        assert regions.whole_image
        assert regions.boxes.tolist() == [[0.0, 0.0, 64.0, 48.0]]
        assert regions.features.shape == (1, config.feature_dim)
        assert np.isfinite(regions.features).all()
        assert 0 < regions.scores[0] < 0.99  # the network's guess, below the threshold
    none = detector.detect([frame], whole_image_when_empty=False)[0]
    assert len(none) == 0
    assert not none.whole_image
    assert none.features.shape == (0, config.feature_dim)


def test_found_and_empty_frames_mix_in_one_batch(trained, examples) -> None:
    detector, _ = trained
    blank = np.full((64, 64, 3), 35, np.uint8)
    shape, empty = detector.detect([examples[1].image, blank])
    assert not shape.whole_image
    assert empty.whole_image
    assert_close(detector.detect([blank])[0], empty)


def test_boxes_come_back_in_pixels_of_the_given_frame(trained, examples) -> None:
    detector, _ = trained
    image = examples[1].image
    large = image.repeat(3, axis=0).repeat(3, axis=1)
    small_boxes, large_boxes = (regions.boxes for regions in detector.detect([image, large]))
    np.testing.assert_allclose(
        large_boxes[0], 3 * small_boxes[0], atol=6
    )  # 2 px of the scaled frame: resampled edges differ


def test_read_only_and_float_frames_are_taken(trained, examples) -> None:
    detector, _ = trained
    frozen = examples[0].image.copy()
    frozen.setflags(write=False)
    first, second = detector.detect([frozen]), detector.detect([examples[0].image.astype(np.float32)])
    assert first[0].boxes.tobytes() == second[0].boxes.tobytes()


def test_no_frames_give_no_regions(trained) -> None:
    assert trained[0].detect([]) == []


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.full((64, 64, 3), np.nan, np.float32), NonFiniteError, "image 1 of 2: holds NaN"),
        (np.full((64, 64, 3), np.inf, np.float32), NonFiniteError, "image 1 of 2: holds NaN or infinite"),
        (np.full((64, 64, 3), -3.0, np.float32), ValueError, "expected 0-255"),
        (np.zeros((64, 64), np.uint8), ValueError, r"expected shape \(height, width, 3\)"),
        (np.zeros((64, 64, 4), np.uint8), ValueError, r"found \(64, 64, 4\)"),
        (np.zeros((0, 64, 3), np.uint8), ValueError, "expected shape"),
        (np.zeros((64, 64, 3), np.int64), TypeError, "uint8"),
        (None, TypeError, "NoneType"),
        (np.zeros((4, 600, 3), np.uint8), ValueError, "600x4 px would be scaled to 128x1 px"),
    ],
)
def test_bad_frames_are_refused_by_index(trained, examples, image, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        trained[0].detect([examples[0].image, image])


def test_non_finite_results_are_an_error(tiny_config, examples) -> None:
    detector = RegionDetector(tiny_config, None, allow_random=True)
    torch.nn.init.constant_(detector._model.proposal_generator.rpn_head.anchor_deltas.bias, float("inf"))
    with pytest.raises(NonFiniteError, match="proposal deltas are not finite"):
        detector.detect([examples[0].image])


def test_weights_must_be_given_or_renounced(tiny_config: DetectorConfig) -> None:
    with pytest.raises(MissingWeightsError, match="preset 'demo' with 2 classes and 3 attributes"):
        RegionDetector(tiny_config, None)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (600, 800)), (1080, 1920, (562, 1000)), (64, 96, (600, 900)), (600, 600, (600, 600))],
)
def test_scaling_keeps_to_both_bounds(height: int, width: int, expected: tuple[int, int]) -> None:
    settings = DetectorConfig(preset="vg-r101-c4").architecture.input
    assert scaled_size(height, width, settings) == expected
