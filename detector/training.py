"""Training a detector: one small loop whose every step is a function of (configuration, seed, step, previous weights).

Order of images, flips and the sampling of anchors and regions are drawn from generators seeded with (seed, step), so that a run that was
killed and resumed from a checkpoint ends, on one machine's CPU, with the same bytes as one that was not.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detector.backend import Boxes, EventStorage, GeneralizedRCNN, Instances
from detector.config import DetectorConfig, DetectorTrainingConfig
from detector.images import check_image, network_input
from detector.inference import describe
from detector.model import build_detector
from detector.selection import NonFiniteError
from detector.weights import load_bytes, weights_to_bytes

WEIGHTS_FILE = "detector.safetensors"
OPTIMIZER_FILE = "optimizer.pt"


class BadExampleError(ValueError):
    """A training example whose boxes, classes or attributes do not fit its image or the vocabulary."""


@dataclass(frozen=True)
class Example:
    """One annotated frame.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) xyxy px, n >= 0.
        class_ids: (n,) in [0, num_classes).
        attribute_ids: per box any number of ids in [0, num_attributes).
    """

    image: np.ndarray
    boxes: np.ndarray
    class_ids: np.ndarray
    attribute_ids: Sequence[Sequence[int]]


class SavedCheckpoint(Protocol):
    """A checkpoint that was read back."""

    step: int

    def read(self, name: str) -> bytes:
        """Bytes of one of its files."""


class CheckpointWriter(Protocol):
    """Where checkpoints go; `storage.CheckpointStore` is one. This package knows no storage."""

    def save(self, step: int, files: Mapping[str, bytes]) -> object:
        """Keep these files as the state after `step` steps, all or none."""

    def latest(self) -> SavedCheckpoint | None:
        """The newest undamaged checkpoint, if any."""


@dataclass(frozen=True)
class StepReport:
    """What one step did: steps done so far (1-based), learning rate, and every loss by name ('total' is what was minimised)."""

    step: int
    learning_rate: float
    losses: dict[str, float]


def train_detector(
    config: DetectorConfig,
    training: DetectorTrainingConfig,
    examples: Sequence[Example],
    *,
    checkpoints: CheckpointWriter | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> bytes:
    """Train from random weights, or go on from the latest checkpoint, to `training.steps`.

    Args:
        examples: indexed by position; may decode on access. Length and order are part of the run's identity.
        checkpoints: receives weights, optimizer state and step every `checkpoint_every` steps and at the end.
    Returns:
        The trained weights as a safetensors file.
    Raises:
        BadExampleError: an example does not fit, named by its index.
        NonFiniteError: a loss or gradient is not finite; weights are left as before that step.
    """
    if not len(examples):
        raise BadExampleError("no training examples: at least one annotated frame is needed")
    model = build_detector(config, seed=training.seed)
    optimizer = _optimizer(model, training)
    done = _resume(model, optimizer, checkpoints, config)
    model.train()
    device = torch.device(config.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), EventStorage():
        for step in range(done, training.steps):
            report = _step(model, optimizer, config, training, examples, step)
            if on_step is not None:
                on_step(report)
            last = step + 1 == training.steps
            if checkpoints is not None and (last or (step + 1) % training.checkpoint_every == 0):
                checkpoints.save(step + 1, _state(model, optimizer))
    return weights_to_bytes(model)


def batch_indices(num_examples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Examples of a step: consecutive slices of an endless row of permutations, each a function of (seed, epoch)."""
    indices = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, num_examples)
        indices.append(int(_epoch_order(num_examples, seed, epoch)[offset]))
    return indices


@lru_cache(maxsize=2)  # a batch touches two epochs at most, unless the corpus is smaller than a batch
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def learning_rate(training: DetectorTrainingConfig, step: int) -> float:
    """Rate of a step (0-based): linear warm-up to the peak, then half a cosine to zero at `steps`."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / (training.steps - training.warmup_steps)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(model: nn.Module, training: DetectorTrainingConfig) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate)


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, bytes]:
    """Files of a checkpoint. No generator state: every step seeds its own (see the module's docstring)."""
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    return {WEIGHTS_FILE: weights_to_bytes(model), OPTIMIZER_FILE: buffer.getvalue()}


def _resume(
    model: nn.Module, optimizer: torch.optim.Optimizer, checkpoints: CheckpointWriter | None, config: DetectorConfig
) -> int:
    """Load the latest checkpoint, if there is one; returns the number of steps done."""
    saved = checkpoints.latest() if checkpoints is not None else None
    if saved is None:
        return 0
    source = f"checkpoint of step {saved.step}"
    load_bytes(model, saved.read(WEIGHTS_FILE), source=source, network=describe(config))
    state = torch.load(io.BytesIO(saved.read(OPTIMIZER_FILE)), map_location=config.device, weights_only=True)
    optimizer.load_state_dict(state)
    return saved.step


def _step(
    model: GeneralizedRCNN,
    optimizer: torch.optim.Optimizer,
    config: DetectorConfig,
    training: DetectorTrainingConfig,
    examples: Sequence[Example],
    step: int,
) -> StepReport:
    """One optimizer step; nothing is changed if a loss or gradient is not finite."""
    chosen = batch_indices(len(examples), training.batch_size, training.seed, step)
    draws = np.random.default_rng((training.seed, 1, step))
    torch.manual_seed(int(draws.integers(2**63)))
    inputs = [
        training_input(examples[i], f"example {i}", config, flip=training.horizontal_flip and bool(draws.integers(2)))
        for i in chosen
    ]
    losses = _losses(model, inputs, step, chosen)
    rate = learning_rate(training, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    losses["total"].backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), training.max_gradient_norm)
    if not torch.isfinite(norm):
        raise NonFiniteError(
            f"step {step + 1}: the gradient norm is {float(norm)} on examples {chosen}; lower learning_rate"
        )
    optimizer.step()
    return StepReport(step + 1, rate, {name: float(loss.detach()) for name, loss in losses.items()})


def _losses(model: GeneralizedRCNN, inputs: list[dict], step: int, chosen: list[int]) -> dict[str, Tensor]:
    try:
        losses = model(inputs)
    except FloatingPointError as error:  # proposals, scores: checked where they arise
        raise NonFiniteError(f"step {step + 1}, examples {chosen}: {error}") from error
    losses["total"] = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(losses["total"]):
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        raise NonFiniteError(
            f"step {step + 1}: losses {values} on examples {chosen} are not finite; lower learning_rate"
        )
    return losses


def training_input(example: Example, name: str, config: DetectorConfig, *, flip: bool) -> dict:
    """An example as GeneralizedRCNN takes it: scaled pixels and ground truth, mirrored on demand.

    Raises:
        BadExampleError: see `check_example`.
    """
    check_example(example, name, config)
    pixels = network_input(example.image, config.architecture.input, torch.device(config.device))
    height, width = pixels.shape[1:]
    scale = np.array([width / example.image.shape[1], height / example.image.shape[0]] * 2)
    boxes = torch.as_tensor(np.asarray(example.boxes, np.float64).reshape(-1, 4) * scale, dtype=torch.float32)
    if flip:
        pixels = pixels.flip(2)
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    labels = torch.zeros(len(boxes), config.num_attributes)
    for row, ids in enumerate(example.attribute_ids):
        labels[row, list(ids)] = 1.0
    truth = Instances((height, width))
    truth.gt_boxes = Boxes(boxes)
    truth.gt_classes = torch.as_tensor(np.asarray(example.class_ids, np.int64))
    truth.gt_attributes = labels
    return {"image": pixels, "instances": truth}


def check_example(example: Example, name: str, config: DetectorConfig) -> None:
    """Raise BadExampleError unless boxes lie in the image with a positive area and all ids are in the vocabulary."""
    try:
        check_image(example.image, name)
    except (TypeError, ValueError) as error:
        raise BadExampleError(str(error)) from error
    boxes = np.asarray(example.boxes, np.float64).reshape(-1, 4)
    counts = (len(boxes), len(example.class_ids), len(example.attribute_ids))
    if len(set(counts)) != 1:
        raise BadExampleError(
            f"{name}: {counts[0]} boxes, {counts[1]} classes and {counts[2]} attribute lists; expected one each per box"
        )
    height, width = example.image.shape[:2]
    inside = (boxes >= 0) & (boxes <= (width, height, width, height))
    good = np.isfinite(boxes).all(1) & inside.all(1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        raise BadExampleError(
            f"{name}: box {bad} is {boxes[bad].tolist()}; expected x1 < x2 <= {width} and y1 < y2 <= {height}"
        )
    _check_ids(example.class_ids, config.num_classes, f"{name}: class")
    for ids in example.attribute_ids:
        _check_ids(ids, config.num_attributes, f"{name}: attribute")


def _check_ids(ids: Sequence[int], count: int, what: str) -> None:
    for one in ids:
        if not 0 <= int(one) < count:
            raise BadExampleError(f"{what} id {int(one)} is outside the vocabulary of {count} (0 to {count - 1})")
