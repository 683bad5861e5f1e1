"""What a detector is: every value that changes its regions or its training, with two presets.

- `demo`: a small C4 network for frames of about 128 px, trained from scratch in about a minute on two CPU cores.
- `vg-r101-c4`: the ResNet-101 C4 detector of bottom-up attention (Anderson et al. 2018) with the 1600 classes and 400 attributes of
  Visual Genome. It keeps the Caffe model's arithmetic where a configuration can say it (anchor table in ratio-major order, pad-0
  max-pool, dilated res5, BGR mean, selection by proposal). Not kept: the `+1` box convention, and the size filter ahead of the top-k.

A preset fills `architecture`; single values are overridden in place, as in
`DetectorConfig(preset="demo", architecture={"heads": {"num_proposals": 100}})`.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PLACEMENT = {"placement": True}  # says where or how fast, never what: kept out of fingerprints

Box = tuple[float, float, float, float]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputConfig(_Config):
    """From a uint8 RGB frame to the network's input."""

    min_side_px: int = Field(128, ge=16, description="the shorter side is scaled to this, px")
    max_side_px: int = Field(256, ge=16, description="... unless the longer side would exceed this, px")
    antialias: bool = Field(
        True, description="low-pass filter when shrinking (Pillow's bilinear); False is OpenCV's bilinear"
    )
    channels: Literal["RGB", "BGR"] = Field("RGB", description="order of the network's input channels")
    pixel_mean: tuple[float, float, float] = Field(
        (114.0, 114.0, 114.0), description="subtracted, in channel order, 0-255"
    )
    pixel_std: tuple[float, float, float] = Field((58.0, 58.0, 58.0), description="divided by, in channel order, 0-255")


class BackboneConfig(_Config):
    """ResNet up to res4, and the res5 stage applied to every region."""

    block: Literal["basic", "bottleneck"] = Field("basic", description="residual block")
    norm: Literal["BN", "FrozenBN"] = Field("BN", description="normalisation; FrozenBN keeps its statistics")
    stem_channels: int = Field(32, ge=1, description="channels of the 7x7 stem convolution (stride 2)")
    stem_pool: Literal["padded", "caffe"] = Field(
        "padded",
        description="3x3/2 max-pool with padding 1, or without padding and with a partial last window as in Caffe",
    )
    stage_blocks: tuple[int, int, int] = Field((1, 1, 1), description="blocks in res2, res3, res4")
    stage_channels: tuple[int, int, int] = Field((32, 64, 96), description="output channels of res2, res3, res4")
    stage_strides: tuple[Literal[1, 2], Literal[1, 2], Literal[1, 2]] = Field(
        (1, 2, 1), description="strides of res2-res4"
    )
    stride_in_1x1: bool = Field(True, description="bottleneck blocks: stride in the 1x1 convolution, as in Caffe")
    frozen_stages: int = Field(0, ge=0, le=4, description="stages that are not trained: 1 = stem, 2 = and res2, ...")
    res5_blocks: int = Field(1, ge=1, description="blocks in res5")
    res5_channels: int = Field(160, ge=1, description="output channels of res5: the dimension of a region's feature")
    res5_stride: Literal[1, 2] = Field(2, description="stride of res5 on the pooled region")
    res5_dilation: Literal[1, 2] = Field(
        1, description="dilation of the 3x3 convolutions of res5 (bottleneck blocks only)"
    )

    @model_validator(mode="after")
    def _strides_change_channels(self) -> Self:
        """detectron2's blocks project the shortcut only where the channel count changes, and fail in use otherwise."""
        channels = (self.stem_channels, *self.stage_channels, self.res5_channels)
        for name, stride, before, after in zip(
            ("res2", "res3", "res4", "res5"), (*self.stage_strides, self.res5_stride), channels, channels[1:]
        ):
            if stride == 2 and before == after:
                raise ValueError(
                    f"backbone: {name} has stride 2 and keeps {after} channels; a stage that strides must change them"
                )
        return self

    @model_validator(mode="after")
    def _dilation_needs_bottleneck(self) -> Self:
        if self.block == "basic" and self.res5_dilation != 1:
            raise ValueError(
                "backbone.res5_dilation: basic blocks cannot be dilated; use block='bottleneck' or dilation 1"
            )
        return self


def _square_anchors(stride_px: int, sides_px: tuple[float, ...]) -> tuple[Box, ...]:
    middle = stride_px / 2
    return tuple((middle - side / 2, middle - side / 2, middle + side / 2, middle + side / 2) for side in sides_px)


class ProposalConfig(_Config):
    """Region proposal network."""

    anchors: tuple[Box, ...] = Field(
        _square_anchors(8, (20.0, 30.0, 44.0)),
        min_length=1,
        description="xyxy px around the first cell's origin, in channel order",
    )
    hidden_channels: int = Field(64, ge=1, description="channels of the 3x3 convolution")
    candidates: tuple[int, int] = Field((400, 200), description="boxes kept ahead of NMS, in training and inference")
    num_proposals: tuple[int, int] = Field((100, 40), description="proposals kept by NMS, in training and inference")
    nms_threshold: float = Field(0.7, gt=0, le=1, description="IoU above which the lower box is dropped")
    min_side_px: float = Field(
        2.0, ge=0, description="proposals with a shorter side are dropped, px of the scaled image"
    )
    sampled_anchors: int = Field(128, ge=1, description="training: anchors per image that enter the loss")
    foreground_fraction: float = Field(0.5, gt=0, le=1, description="training: largest share of positive anchors")
    iou_bounds: tuple[float, float] = Field(
        (0.3, 0.7), description="training: negative below, positive from, ignored between"
    )
    smooth_l1_beta: float = Field(
        1 / 9, ge=0, description="training: where the box loss turns from quadratic to linear"
    )


class HeadConfig(_Config):
    """Classes, boxes and attributes of pooled regions, and which regions are kept."""

    pooler: Literal["ROIPool", "ROIAlignV2"] = Field(
        "ROIAlignV2", description="how a region is cut out of the feature map"
    )
    pooler_size: int = Field(6, ge=1, description="side of the pooled grid, cells")
    pooler_samples: int = Field(
        1,
        ge=0,
        description="ROIAlignV2: bilinear samples per cell and axis, 0 = adapted to the region's size; ROIPool ignores it",
    )
    box_weights: Box = Field((10.0, 10.0, 5.0, 5.0), description="scale of the (dx, dy, dw, dh) regression targets")
    class_specific_boxes: bool = Field(False, description="one box regression per class")
    region: Literal["proposal", "refined"] = Field(
        "refined",
        description="returned box: the proposal as in bottom-up attention, or the regressed box; the feature is pooled from that box",
    )
    attribute_embedding: int = Field(32, ge=1, description="width of the class embedding joined to the feature")
    attribute_hidden: int = Field(128, ge=1, description="hidden width of the attribute head")
    no_attribute_output: bool = Field(False, description="one more output, the last, for 'no attribute'")
    attribute_loss_weight: float = Field(0.5, ge=0, description="training: weight of the attribute loss")
    sampled_regions: int = Field(16, ge=1, description="training: regions per image that enter the losses")
    foreground_fraction: float = Field(0.5, gt=0, le=1, description="training: largest share of positive regions")
    foreground_iou: float = Field(0.5, gt=0, le=1, description="training: IoU from which a region is positive")
    smooth_l1_beta: float = Field(1.0, ge=0, description="training: where the box loss turns from quadratic to linear")


class Architecture(_Config):
    """All of the network."""

    input: InputConfig = InputConfig()
    backbone: BackboneConfig = BackboneConfig()
    proposals: ProposalConfig = ProposalConfig()
    heads: HeadConfig = HeadConfig()


# Values of generate_anchors() in the Caffe release (base 16, ratios 0.5 1 2, scales 4 8 16 32), ratio-major as the trained channels are.
# The list in that file's comment is 1 larger everywhere (Matlab counts from 1); detectron2's own generator is size-major.
CAFFE_ANCHORS: tuple[Box, ...] = (
    *((-38, -16, 53, 31), (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199)),
    *((-24, -24, 39, 39), (-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263)),
    *((-14, -36, 29, 51), (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359)),
)

_VG_R101_C4: dict[str, Any] = {
    "num_classes": 1600,
    "num_attributes": 400,
    "score_threshold": 0.2,
    "nms_threshold": 0.3,
    "architecture": {
        "input": {
            "min_side_px": 600,
            "max_side_px": 1000,
            "antialias": False,
            "channels": "BGR",
            "pixel_mean": (102.9801, 115.9465, 122.7717),
            "pixel_std": (1.0, 1.0, 1.0),
        },
        "backbone": {
            "block": "bottleneck",
            "norm": "FrozenBN",
            "stem_channels": 64,
            "stem_pool": "caffe",
            "stage_blocks": (3, 4, 23),
            "stage_channels": (256, 512, 1024),
            "stage_strides": (1, 2, 2),
            "frozen_stages": 3,
            "res5_blocks": 3,
            "res5_channels": 2048,
            "res5_stride": 1,
            "res5_dilation": 2,
        },
        "proposals": {
            "anchors": CAFFE_ANCHORS,
            "hidden_channels": 512,
            "candidates": (12000, 6000),
            "num_proposals": (2000, 300),
            "min_side_px": 16.0,
            "sampled_anchors": 64,
        },
        "heads": {
            "pooler": "ROIPool",
            "pooler_size": 14,
            "class_specific_boxes": True,
            "region": "proposal",
            "attribute_embedding": 256,
            "attribute_hidden": 512,
            "no_attribute_output": True,
            "sampled_regions": 64,
        },
    },
}

PRESETS: dict[str, dict[str, Any]] = {"demo": {}, "vg-r101-c4": _VG_R101_C4}  # demo: every default


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, dictionaries merged key by key."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


class DetectorConfig(_Config):
    """A detector: its network, its vocabulary sizes and its selection of regions.

    Selection: class-wise NMS among the (region, class) pairs above `score_threshold`, the best surviving class of each region, then the
    `max_regions` most confident regions, most confident first.
    """

    preset: Literal["demo", "vg-r101-c4"] = Field("demo", description="fills every value that is not given")
    num_classes: int = Field(8, ge=1, description="object classes, background not counted")
    num_attributes: int = Field(14, ge=1, description="attributes, 'no attribute' not counted")
    max_regions: int = Field(30, ge=1, description="regions returned per frame at most (30 in DemoVLP)")
    score_threshold: float = Field(0.3, ge=0, lt=1, description="least class probability of a region")
    nms_threshold: float = Field(
        0.5, gt=0, le=1, description="IoU above which the less confident region of a class is dropped"
    )
    architecture: Architecture = Field(Architecture(), description="the network; filled by the preset")
    device: str = Field("cpu", description="torch device", json_schema_extra=PLACEMENT)
    batch_size: int = Field(
        8,
        ge=1,
        description="frames of one size per forward pass; changes results by float rounding only",
        json_schema_extra=PLACEMENT,
    )
    regions_per_chunk: int = Field(
        128, ge=1, description="regions per pass through res5: bounds memory, not results", json_schema_extra=PLACEMENT
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in values.items()}
        return _merged(PRESETS.get(given.get("preset", "demo"), {}), given)

    @property
    def feature_dim(self) -> int:
        """Dimension of a region's feature."""
        return self.architecture.backbone.res5_channels


class DetectorTrainingConfig(_Config):
    """How a detector is trained. The defaults train `demo` on the demo corpus."""

    steps: int = Field(600, ge=1, description="optimizer steps")
    batch_size: int = Field(8, ge=1, description="images per step")
    learning_rate: float = Field(2e-3, gt=0, description="peak, after the warm-up")
    warmup_steps: int = Field(20, ge=0, description="steps of linear warm-up; a half cosine to zero follows")
    weight_decay: float = Field(
        1e-4, ge=0, description="AdamW's decoupled weight decay; not on biases and normalisations"
    )
    max_gradient_norm: float = Field(5.0, gt=0, description="gradients are scaled down to this norm")
    horizontal_flip: bool = Field(True, description="mirror every image with probability 1/2")
    seed: int = Field(
        0, ge=0, description="initial weights, order of images, flips and sampling of anchors and regions"
    )
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints", json_schema_extra=PLACEMENT)

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, must be less than steps ({self.steps})")
        return self
