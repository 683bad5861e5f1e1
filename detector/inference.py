"""Frames to regions."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from detector.backend import GeneralizedRCNN, Instances
from detector.config import DetectorConfig
from detector.images import check_image, network_input
from detector.model import build_detector
from detector.regions import Regions
from detector.weights import load_weights


class MissingWeightsError(ValueError):
    """A detector was asked for without weights and without saying that random ones are wanted."""


def describe(config: DetectorConfig) -> str:
    """How messages call a detector."""
    return f"preset {config.preset!r} with {config.num_classes} classes and {config.num_attributes} attributes"


class RegionDetector:
    """A trained network that turns frames into `Regions`. Deterministic: equal frames in equal batches give equal bytes on a device."""

    def __init__(self, config: DetectorConfig, weights: Path | None, *, allow_random: bool = False) -> None:
        """Build the network and load its weights.

        Args:
            weights: a safetensors file that fits `config` in every name and shape.
            allow_random: with `weights=None`, use random weights (equal on every call): for tests and timing only.
        Raises:
            MissingWeightsError: neither weights nor `allow_random`.
            FileNotFoundError, WrongWeightsError, NonFiniteError: see `load_weights`.
        """
        if weights is None and not allow_random:
            raise MissingWeightsError(
                f"no detector weights given for {describe(config)}: pass a .safetensors file, or train a detector first"
            )
        model = build_detector(config)
        if weights is not None:
            load_weights(model, Path(weights), network=describe(config))
        self._prepare(config, model)

    @classmethod
    def from_model(cls, config: DetectorConfig, model: GeneralizedRCNN) -> "RegionDetector":
        """Wrap a network that is in memory, such as one in training; it is switched to inference mode."""
        detector = cls.__new__(cls)
        detector._prepare(config, model)
        return detector

    def _prepare(self, config: DetectorConfig, model: GeneralizedRCNN) -> None:
        self.config = config
        self.feature_dim = config.feature_dim
        self._model = model.eval()

    def detect(self, images: Sequence[np.ndarray], *, whole_image_when_empty: bool = True) -> list[Regions]:
        """Regions of every image, in the order given. Images of one size share forward passes of `config.batch_size`.

        Args:
            images: (H, W, 3) RGB arrays, uint8 or float in 0-255; sizes may differ.
            whole_image_when_empty: where nothing is detected return one whole-image region (flagged), else none at all.
        Raises:
            TypeError, ValueError: an image of another type, shape, range, or too elongated; its index is named.
            NonFiniteError: NaN or infinity in an image or in what the network computes.
        """
        for index, image in enumerate(images):
            check_image(image, f"image {index} of {len(images)}")
        found: list[Regions | None] = [None] * len(images)
        for batch in self._batches(images):
            for index, instances in zip(batch, self._forward([images[i] for i in batch])):
                found[index] = _to_regions(instances, images[index].shape[:2], whole_image_when_empty)
        return found

    def _batches(self, images: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """Indices of images of one size, `config.batch_size` at a time; padding-free, so a batch computes what single images would."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(index)
        for indices in by_size.values():
            for start in range(0, len(indices), self.config.batch_size):
                yield indices[start : start + self.config.batch_size]

    @torch.inference_mode()
    def _forward(self, images: list[np.ndarray]) -> list[Instances]:
        settings = self.config.architecture.input
        inputs = [{"image": network_input(image, settings, self._model.device)} for image in images]
        return self._model.inference(inputs, do_postprocess=False)


def _to_regions(instances: Instances, size_px: tuple[int, int], whole_image_when_empty: bool) -> Regions:
    """Arrays in pixels of the frame; `size_px` is its (height, width)."""
    height, width = size_px
    whole = bool(instances.whole_image.any())
    if whole and not whole_image_when_empty:
        instances = instances[:0]
        whole = False
    scale_x, scale_y = width / instances.image_size[1], height / instances.image_size[0]
    boxes = instances.pred_boxes.tensor.cpu().numpy().astype(np.float64) * (scale_x, scale_y, scale_x, scale_y)
    np.clip(boxes, 0, (width, height, width, height), out=boxes)
    return Regions(
        boxes=boxes.astype(np.float32),
        scores=instances.scores.cpu().numpy(),
        class_ids=instances.pred_classes.cpu().numpy().astype(np.int32),
        attribute_ids=instances.attribute_ids.cpu().numpy().astype(np.int32),
        attribute_scores=instances.attribute_scores.cpu().numpy(),
        features=instances.features.cpu().numpy(),
        whole_image=whole,
    )
