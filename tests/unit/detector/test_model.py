"""Shapes and numbers of the network, worked by hand."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.ops import nms

from detector.backend import Boxes
from detector.config import CAFFE_ANCHORS, DetectorConfig
from detector.heads import AttributeHead
from detector.inference import RegionDetector
from detector.model import CaffeStem, TableAnchors, build_detector
from detector.selection import class_wise_nms, select_regions


def test_anchors_are_the_table_moved_to_every_cell() -> None:
    generator = TableAnchors(((-4, -2, 12, 10), (0, 0, 8, 8)), stride_px=8)
    anchors = generator([torch.zeros(1, 3, 2, 2)])[0].tensor
    assert generator.num_anchors == [2]
    assert anchors.tolist() == [
        *([-4, -2, 12, 10], [0, 0, 8, 8]),  # row 0, column 0
        *([4, -2, 20, 10], [8, 0, 16, 8]),  # row 0, column 1
        *([-4, 6, 12, 18], [0, 8, 8, 16]),  # row 1, column 0
        *([4, 6, 20, 18], [8, 8, 16, 16]),
    ]
    assert list(generator.state_dict()) == []  # configuration, not weights


def test_caffe_anchors_are_ratio_major_with_their_areas() -> None:
    boxes = np.array(CAFFE_ANCHORS, float)
    sides = boxes[:, 2:] - boxes[:, :2] + 1  # Caffe counts both edge pixels
    np.testing.assert_array_equal(boxes[:, :2] + boxes[:, 2:], 15)  # centred on pixel 7.5 of the 16 px cell
    ratios = (sides[:, 1] / sides[:, 0]).reshape(3, 4)
    np.testing.assert_allclose(ratios, [[0.52] * 4, [1] * 4, [2] * 4], atol=0.01)
    np.testing.assert_array_equal(sides[4:8], [[64, 64], [128, 128], [256, 256], [512, 512]])


def test_caffe_stem_pools_the_last_partial_window() -> None:
    stem = CaffeStem(in_channels=3, out_channels=4, norm="FrozenBN")
    # 7x7/2 with padding 3: 600 -> 300; 3x3/2 without padding, ceil: (300 - 3) / 2 = 148.5 -> 149 + 1
    assert stem(torch.zeros(1, 3, 600, 604)).shape == (1, 4, 150, 151)


def test_demo_shapes() -> None:
    config = DetectorConfig()
    model = build_detector(config)
    shape = model.backbone.output_shape()["res4"]
    assert (shape.channels, shape.stride) == (config.architecture.backbone.stage_channels[2], 8)
    head = model.proposal_generator.rpn_head
    assert head.objectness_logits.weight.shape[0] == len(config.architecture.proposals.anchors) == 3
    assert head.anchor_deltas.weight.shape[0] == 12
    assert model.roi_heads.box_predictor.cls_score.weight.shape == (9, config.feature_dim)
    assert model.roi_heads.box_predictor.bbox_pred.weight.shape == (4, config.feature_dim)
    assert model.roi_heads.attribute_head.scores.weight.shape[0] == 14
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000


def test_visual_genome_shapes_follow_the_published_network() -> None:
    with torch.device("meta"):  # shapes alone: 65 million values would take seconds to draw
        model = build_detector(DetectorConfig(preset="vg-r101-c4", device="meta"))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["proposal_generator.rpn_head.conv.weight"] == (512, 1024, 3, 3)
    assert shapes["proposal_generator.rpn_head.objectness_logits.weight"] == (12, 512, 1, 1)
    assert shapes["proposal_generator.rpn_head.anchor_deltas.weight"] == (48, 512, 1, 1)
    assert shapes["roi_heads.box_predictor.cls_score.weight"] == (1601, 2048)
    assert shapes["roi_heads.box_predictor.bbox_pred.weight"] == (6400, 2048)
    assert shapes["roi_heads.attribute_head.class_embedding.weight"] == (1601, 256)
    assert shapes["roi_heads.attribute_head.hidden.weight"] == (512, 2304)
    assert shapes["roi_heads.attribute_head.scores.weight"] == (401, 512)
    assert shapes["backbone.res4.22.conv3.weight"] == (1024, 256, 1, 1)
    trained = {
        name.split(".")[1] for name, value in model.named_parameters() if value.requires_grad and "backbone" in name
    }
    assert trained == {"res4"}  # conv1, res2 and res3 are frozen in the published recipe
    convolution = model.roi_heads.res5[0].conv2
    assert (convolution.stride, convolution.dilation, convolution.padding) == ((1, 1), (2, 2), (2, 2))


def test_visual_genome_preset_runs_with_random_weights() -> None:
    architecture = {
        "input": {"min_side_px": 64, "max_side_px": 96},  # the network unchanged, the frame small
        "proposals": {"num_proposals": (300, 10)},
    }
    config = DetectorConfig(preset="vg-r101-c4", architecture=architecture)
    detector = RegionDetector(config, None, allow_random=True)
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    regions = detector.detect([frame])[0]
    assert detector.feature_dim == 2048
    assert regions.features.shape == (len(regions), 2048)
    assert len(regions) >= 1
    assert np.isfinite(regions.features).all()


def test_weights_depend_on_the_seed_alone(tiny_config: DetectorConfig) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (build_detector(tiny_config, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def _attribute_head(**heads: object) -> AttributeHead:
    config = DetectorConfig(num_classes=2, num_attributes=3, architecture={"heads": heads})
    head = AttributeHead(2, config)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    return head


def test_attribute_loss_is_the_mean_over_labels_then_regions() -> None:
    head = _attribute_head()
    with torch.no_grad():
        head.scores.bias.copy_(torch.log(torch.tensor([0.5, 0.25, 0.25])))
    labels = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 1]])
    loss = head.loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]), labels)
    expected = ((np.log(2) + np.log(4)) / 2 + np.log(4)) / 2  # the second region has no label
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert head.loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]), torch.zeros(3, 3)).item() == 0.0


def test_no_attribute_takes_probability_but_is_never_chosen() -> None:
    head = _attribute_head(no_attribute_output=True)
    with torch.no_grad():
        head.scores.bias.copy_(torch.log(torch.tensor([0.1, 0.3, 0.1, 0.5])))
    ids, scores = head.best(torch.zeros(1, 2), torch.tensor([0]))
    assert ids.tolist() == [1]
    assert scores.item() == pytest.approx(0.3)


def test_attribute_head_reads_the_class() -> None:
    head = _attribute_head(attribute_embedding=1, attribute_hidden=1)
    with torch.no_grad():
        head.class_embedding.weight[1] = 1.0
        head.hidden.weight[0, 2] = 1.0  # features first, embedding last
        head.scores.weight[2] = 3.0
    ids, _ = head.best(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert head(torch.zeros(2, 2), torch.tensor([0, 1])).tolist() == [[0, 0, 0], [0, 0, 3]]
    assert ids.tolist() == [0, 2]


def test_nms_acts_within_classes_and_breaks_ties_by_index() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    near = [0.0, 0.0, 10.0, 9.0]  # IoU 0.9 with box
    boxes = torch.tensor([box, near, near, [50.0, 50.0, 60.0, 60.0]])
    scores = torch.tensor([0.5, 0.5, 0.4, 0.5])
    classes = torch.tensor([0, 0, 1, 0])
    assert class_wise_nms(boxes, scores, classes, 0.5).tolist() == [0, 3, 2]
    assert class_wise_nms(boxes, scores, classes, 0.95).tolist() == [0, 1, 3, 2]
    assert class_wise_nms(boxes[:0], scores[:0], classes[:0], 0.5).tolist() == []


def test_nms_of_many_classes_equals_one_nms_per_class() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(400, 2, generator=generator) * 900
    boxes = torch.cat([corners, corners + 20 + 80 * torch.rand(400, 2, generator=generator)], dim=1)
    scores = torch.rand(400, generator=generator)
    classes = torch.randint(1590, 1600, (400,), generator=generator)
    kept = class_wise_nms(boxes, scores, classes, 0.3).tolist()
    slow = []
    for one in range(1590, 1600):
        rows = (classes == one).nonzero().flatten()
        slow += rows[nms(boxes[rows], scores[rows], 0.3)].tolist()
    assert kept == sorted(slow, key=lambda row: -scores[row])


def test_selection_by_hand() -> None:
    config = DetectorConfig(num_classes=2, score_threshold=0.2, nms_threshold=0.5, max_regions=2)
    boxes = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],
            [0.0, 0.0, 10.0, 9.0],  # suppressed by row 0 as class 0, survives as class 1
            [20.0, 20.0, 40.0, 40.0],  # clipped to 20-30
            [20.0, 2.0, 20.0, 9.0],  # no area
            [5.0, 20.0, 9.0, 29.0],  # third best: beyond max_regions
        ]
    )[:, None]
    probabilities = torch.tensor(
        [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.9, 0.0, 0.1], [0.25, 0.2, 0.55]]
    )
    found, rows = select_regions(boxes, probabilities, (30, 30), config)
    assert rows.tolist() == [0, 2]
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [20, 20, 30, 30]]
    assert found.pred_classes.tolist() == [0, 1]
    found, rows = select_regions(boxes, probabilities, (30, 30), config.model_copy(update={"max_regions": 9}))
    assert rows.tolist() == [0, 2, 1, 4]
    assert found.pred_classes.tolist() == [0, 1, 1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.7, 0.3, 0.25]))


def test_presets_fill_what_is_not_given_and_survive_a_round_trip() -> None:
    config = DetectorConfig(preset="vg-r101-c4", max_regions=36, architecture={"heads": {"region": "refined"}})
    assert (config.num_classes, config.num_attributes, config.max_regions, config.feature_dim) == (1600, 400, 36, 2048)
    assert (config.architecture.heads.region, config.architecture.heads.pooler) == ("refined", "ROIPool")
    assert config.architecture.proposals.anchors == CAFFE_ANCHORS
    assert DetectorConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "r50"}, "preset"),
        ({"colour": 1}, "colour"),
        ({"architecture": {"heads": {"poolersize": 3}}}, "poolersize"),
        ({"architecture": {"backbone": {"res5_dilation": 2}}}, "basic blocks cannot be dilated"),
        ({"architecture": {"backbone": {"stage_channels": (32, 32, 96)}}}, "res3 has stride 2 and keeps 32 channels"),
    ],
)
def test_wrong_configurations_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DetectorConfig(**values)


def test_pooling_in_chunks_changes_nothing(tiny_config: DetectorConfig) -> None:
    model = build_detector(tiny_config).eval()
    maps = [torch.rand(1, 24, 8, 8, generator=torch.Generator().manual_seed(0))]
    corners = torch.arange(20).float()[:, None]
    boxes = [Boxes(torch.cat([corners, corners, corners + 20, corners + 30], dim=1))]
    with torch.inference_mode():
        whole = model.roi_heads.pool(maps, boxes)
        model.roi_heads.config = tiny_config.model_copy(update={"regions_per_chunk": 7})
        parts = model.roi_heads.pool(maps, boxes)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
