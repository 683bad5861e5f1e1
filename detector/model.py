"""Faster R-CNN with a C4 backbone on detectron2's GeneralizedRCNN, built from a DetectorConfig.

Three small subclasses say what detectron2 cannot be configured to do: `TableAnchors` (anchors as listed, in the listed order),
`CaffeStem` (max-pool without padding) and `StrictRPN` (values that are not finite are an error, not fewer proposals).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.backend import (
    RPN,
    BasicBlock,
    BasicStem,
    BottleneckBlock,
    Box2BoxTransform,
    Boxes,
    FastRCNNOutputLayers,
    GeneralizedRCNN,
    Instances,
    Matcher,
    ResNet,
    ROIPooler,
    ShapeSpec,
    StandardRPNHead,
)
from detector.config import BackboneConfig, Box, DetectorConfig
from detector.heads import AttributeHead, AttributeRes5ROIHeads
from detector.selection import require_finite

FEATURE_MAP = "res4"


class TableAnchors(nn.Module):
    """Anchors at every cell of the feature map, cell (0, 0) first, as a table lists them: no rounding, no reordering, no offset.

    detectron2's generator orders by size where the Caffe models order by ratio, and silently drops the `cell_anchors` a checkpoint
    carries; the table here is configuration, not weights.
    """

    box_dim = 4

    def __init__(self, table: tuple[Box, ...], stride_px: int) -> None:
        super().__init__()
        self.stride_px = stride_px
        self.register_buffer("table", torch.tensor(table, dtype=torch.float32), persistent=False)

    @property
    def num_anchors(self) -> list[int]:
        """Anchors per cell of each feature map (one map)."""
        return [len(self.table)]

    def forward(self, features: list[Tensor]) -> list[Boxes]:
        """Anchors of one map (N, C, H, W): H * W * A boxes, anchor fastest, then column, then row."""
        height, width = features[0].shape[-2:]
        x = torch.arange(width, device=self.table.device, dtype=torch.float32) * self.stride_px
        y = torch.arange(height, device=self.table.device, dtype=torch.float32) * self.stride_px
        corners = torch.stack([x.repeat(height), y.repeat_interleave(width)] * 2, dim=1)
        return [Boxes((corners[:, None] + self.table[None]).reshape(-1, 4))]


class CaffeStem(BasicStem):
    """Stem whose 3x3/2 max-pool has no padding and a partial last window, as Caffe pools."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=0, ceil_mode=True)


class StrictRPN(RPN):
    """Proposal network that raises NonFiniteError where detectron2 would return fewer proposals."""

    def predict_proposals(
        self, anchors: list[Boxes], logits: list[Tensor], deltas: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        for one in logits:
            require_finite("objectness scores", one)
        for one in deltas:
            require_finite("proposal deltas", one)
        return super().predict_proposals(anchors, logits, deltas, image_sizes)


def build_detector(config: DetectorConfig, *, seed: int = 0) -> GeneralizedRCNN:
    """The network with random weights that depend on `seed` alone, on `config.device`, in training mode.

    Inference output per image is Instances with the fields of `AttributeRes5ROIHeads.forward`.
    """
    network = config.architecture
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = _backbone(network.backbone)
        shape = backbone.output_shape()[FEATURE_MAP]
        model = GeneralizedRCNN(
            backbone=backbone,
            proposal_generator=_proposal_network(config, shape),
            roi_heads=_region_heads(config, shape),
            pixel_mean=network.input.pixel_mean,
            pixel_std=network.input.pixel_std,
        )
    return model.to(config.device)


def _stage(
    config: BackboneConfig, num_blocks: int, stride: int, in_channels: int, out_channels: int, dilation: int = 1
) -> list:
    """Residual blocks of one stage; the first one strides."""
    shared = {"in_channels": in_channels, "out_channels": out_channels, "norm": config.norm}
    strides = [stride] + [1] * (num_blocks - 1)
    if config.block == "basic":
        return ResNet.make_stage(BasicBlock, num_blocks, stride_per_block=strides, **shared)
    return ResNet.make_stage(
        BottleneckBlock,
        num_blocks,
        stride_per_block=strides,
        bottleneck_channels=out_channels // 4,
        stride_in_1x1=config.stride_in_1x1,
        dilation=dilation,
        **shared,
    )


def _backbone(config: BackboneConfig) -> ResNet:
    stem_class = CaffeStem if config.stem_pool == "caffe" else BasicStem
    stem = stem_class(in_channels=3, out_channels=config.stem_channels, norm=config.norm)
    inputs = (config.stem_channels, *config.stage_channels[:2])
    rows = zip(config.stage_blocks, config.stage_strides, inputs, config.stage_channels)
    stages = [_stage(config, *row) for row in rows]
    return ResNet(stem, stages, out_features=[FEATURE_MAP], freeze_at=config.frozen_stages)


def _proposal_network(config: DetectorConfig, shape: ShapeSpec) -> StrictRPN:
    settings = config.architecture.proposals
    anchors = TableAnchors(settings.anchors, shape.stride)
    return StrictRPN(
        in_features=[FEATURE_MAP],
        head=StandardRPNHead(
            in_channels=shape.channels, num_anchors=len(settings.anchors), conv_dims=[settings.hidden_channels]
        ),
        anchor_generator=anchors,
        anchor_matcher=Matcher(list(settings.iou_bounds), [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=settings.sampled_anchors,
        positive_fraction=settings.foreground_fraction,
        pre_nms_topk=settings.candidates,
        post_nms_topk=settings.num_proposals,
        nms_thresh=settings.nms_threshold,
        min_box_size=settings.min_side_px,
        smooth_l1_beta=settings.smooth_l1_beta,
    )


def _region_heads(config: DetectorConfig, shape: ShapeSpec) -> AttributeRes5ROIHeads:
    backbone, heads = config.architecture.backbone, config.architecture.heads
    res5 = _stage(
        backbone,
        backbone.res5_blocks,
        backbone.res5_stride,
        shape.channels,
        backbone.res5_channels,
        backbone.res5_dilation,
    )
    predictor = FastRCNNOutputLayers(
        ShapeSpec(channels=backbone.res5_channels, height=1, width=1),
        box2box_transform=Box2BoxTransform(weights=heads.box_weights),
        num_classes=config.num_classes,
        cls_agnostic_bbox_reg=not heads.class_specific_boxes,
        smooth_l1_beta=heads.smooth_l1_beta,
    )
    return AttributeRes5ROIHeads(
        config=config,
        attribute_head=AttributeHead(backbone.res5_channels, config),
        in_features=[FEATURE_MAP],
        pooler=ROIPooler(heads.pooler_size, (1 / shape.stride,), heads.pooler_samples, heads.pooler),
        res5=nn.Sequential(*res5),
        box_predictor=predictor,
        num_classes=config.num_classes,
        batch_size_per_image=heads.sampled_regions,
        positive_fraction=heads.foreground_fraction,
        proposal_matcher=Matcher([heads.foreground_iou], [0, 1], allow_low_quality_matches=False),
    )
