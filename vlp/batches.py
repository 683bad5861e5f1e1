"""What the model eats and gives: one padded batch of videos, one of captions, and the embeddings of either.

Padding never carries meaning: every tensor that can be padded travels with a boolean mask, True where something is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


class _MovesTensors:
    """`.to` and `.pin_memory` for a frozen dataclass of tensors (a DataLoader calls the latter by name)."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False):
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        return type(self)(**moved)

    def pin_memory(self):
        return type(self)(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})


@dataclass(frozen=True)
class VideoBatch(_MovesTensors):
    """Detected regions of B videos, F frames each, R region slots per frame.

    A frame that is missing (a short clip, a failed frame) is a frame whose region_mask is False throughout.

    Attributes:
        features: (B, F, R, D) detector features, float16 or float32; values in padded slots are never used.
        boxes_norm: (B, F, R, 4) xyxy in [0, 1] of the original frame.
        region_mask: (B, F, R) bool, True where a region was detected.
        frame_position: (B, F) int64, the temporal position m of every frame, in [0, num_frames of the model).
    """

    features: Tensor
    boxes_norm: Tensor
    region_mask: Tensor
    frame_position: Tensor

    def __post_init__(self) -> None:
        if self.features.dim() != 4:
            raise ValueError(f"features must be (B, F, R, D), found {tuple(self.features.shape)}")
        slots = tuple(self.features.shape[:3])
        expected = {"boxes_norm": (*slots, 4), "region_mask": slots, "frame_position": slots[:2]}
        _check_shapes(self, expected)
        _check_bool(self, "region_mask")

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def frame_mask(self) -> Tensor:
        """(B, F) bool, True where the frame has at least one region."""
        return self.region_mask.any(dim=-1)


@dataclass(frozen=True)
class TextBatch(_MovesTensors):
    """T tokenized captions, padded to the longest of the batch: [CLS] w_1 ... w_L [SEP] [PAD] ...

    Attributes:
        input_ids: (T, L) int64.
        attention_mask: (T, L) int64 or bool, nonzero at every token that is not padding.
        word_mask: (T, L) bool, True at the tokens that take part in the region-word alignment: not [CLS] (the global
            embedding), not [PAD], and not [SEP] (the paper aligns words; the release counts [SEP] as one).
    """

    input_ids: Tensor
    attention_mask: Tensor
    word_mask: Tensor

    def __post_init__(self) -> None:
        if self.input_ids.dim() != 2:
            raise ValueError(f"input_ids must be (T, L), found {tuple(self.input_ids.shape)}")
        shape = tuple(self.input_ids.shape)
        _check_shapes(self, {"attention_mask": shape, "word_mask": shape})
        _check_bool(self, "word_mask")

    def __len__(self) -> int:
        return self.input_ids.shape[0]


@dataclass(frozen=True)
class Encoded(_MovesTensors):
    """Embeddings of a batch of videos or captions, unnormalised.

    Attributes:
        global_: (B, d) embedding of [CLS].
        local: (B, N, d) embeddings of regions (N = frames x regions, frame by frame) or of words.
        mask: (B, N) bool, True where local holds something real.
    """

    global_: Tensor
    local: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.global_.shape[0]


def _check_shapes(batch: object, expected: dict[str, tuple[int, ...]]) -> None:
    for name, shape in expected.items():
        found = tuple(getattr(batch, name).shape)
        if found != shape:
            raise ValueError(f"{type(batch).__name__}.{name} must have shape {shape}, found {found}")


def _check_bool(batch: object, name: str) -> None:
    dtype = getattr(batch, name).dtype
    if dtype != torch.bool:
        raise ValueError(f"{type(batch).__name__}.{name} must be bool (True = real), found {dtype}")
