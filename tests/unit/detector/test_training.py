"""Order, schedule, labels, resuming and failing of detector training."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from detector.config import DetectorConfig, DetectorTrainingConfig
from detector.model import build_detector
from detector.selection import NonFiniteError
from detector.training import (
    BadExampleError,
    Example,
    batch_indices,
    check_example,
    learning_rate,
    train_detector,
    training_input,
)
from detector.weights import weights_to_bytes
from storage.checkpoint import CheckpointStore
from tests.unit.detector.train_and_die import TRAINING, train

REPOSITORY = Path(__file__).resolve().parents[3]


def test_training_reduces_the_loss_and_finds_the_shapes(trained, examples) -> None:
    detector, reports = trained
    first, last = (np.mean([r.losses["total"] for r in part]) for part in (reports[:10], reports[50:60]))
    assert last < 0.8 * first  # after 60 steps; measured 0.6
    found = detector.detect([example.image for example in examples])
    assert sum(not regions.whole_image for regions in found) > 24  # of 32 frames


def test_killed_training_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    killed = subprocess.run(
        [sys.executable, "-m", "tests.unit.detector.train_and_die", str(tmp_path / "killed"), "6"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert CheckpointStore(tmp_path / "killed").latest().step == 4
    assert train(tmp_path / "killed") == whole
    final = CheckpointStore(tmp_path / "killed").latest()
    assert final.step == TRAINING.steps
    assert final.read("detector.safetensors") == whole


def test_finished_training_does_nothing_more(tiny_config, examples, tmp_path: Path) -> None:
    whole = train(tmp_path)
    steps = []
    again = train_detector(
        tiny_config,
        TRAINING,
        examples[:7],
        checkpoints=CheckpointStore(tmp_path),
        on_step=lambda report: steps.append(report.step),
    )
    assert again == whole
    assert steps == []


def test_every_epoch_holds_every_example_once_across_batch_boundaries() -> None:
    drawn = [index for step in range(10) for index in batch_indices(5, 3, seed=4, step=step)]
    assert [sorted(drawn[start : start + 5]) for start in range(0, 30, 5)] == [[0, 1, 2, 3, 4]] * 6
    assert drawn[:5] != drawn[5:10]
    assert batch_indices(5, 3, seed=4, step=7) == drawn[21:24]


def test_learning_rate_warms_up_then_follows_half_a_cosine() -> None:
    training = DetectorTrainingConfig(steps=12, warmup_steps=2, learning_rate=1.0)
    rates = [learning_rate(training, step) for step in range(12)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx(0.5)  # 5 of 10 steps after the warm-up
    assert rates[11] == pytest.approx(0.5 * (1 + np.cos(0.9 * np.pi)))


def test_labels_scale_and_flip_with_the_image(tiny_config: DetectorConfig) -> None:
    image = np.zeros((128, 256, 3), np.uint8)  # scaled by 1/2 to 64 x 128
    image[:, :20] = 255
    example = Example(image, np.array([[10, 20, 50, 60]]), np.array([1]), [[0, 2]])
    plain = training_input(example, "e", tiny_config, flip=False)
    flipped = training_input(example, "e", tiny_config, flip=True)
    assert plain["image"].shape == (3, 64, 128)
    assert plain["instances"].gt_boxes.tensor.tolist() == [[5, 10, 25, 30]]
    assert flipped["instances"].gt_boxes.tensor.tolist() == [[103, 10, 123, 30]]
    assert torch.equal(flipped["image"], plain["image"].flip(2))
    assert plain["instances"].gt_attributes.tolist() == [[1.0, 0.0, 1.0]]
    assert plain["instances"].gt_classes.tolist() == [1]


def test_an_image_without_objects_trains(tiny_config: DetectorConfig) -> None:
    empty = Example(np.zeros((64, 64, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, int), [])
    reports = []
    training = DetectorTrainingConfig(steps=1, batch_size=2, warmup_steps=0)
    train_detector(tiny_config, training, [empty], on_step=reports.append)
    assert reports[0].losses["loss_attribute"] == 0.0
    assert reports[0].losses["loss_box_reg"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.array([[0, 0, 65, 10]])}, r"example 3: box 0 is .*x2 <= 64"),
        ({"boxes": np.array([[5, 5, 5, 10]])}, "box 0"),
        ({"boxes": np.array([[5, 5, np.nan, 10]])}, "box 0"),
        ({"class_ids": np.array([2])}, r"class id 2 is outside the vocabulary of 2 \(0 to 1\)"),
        ({"attribute_ids": [[-1]]}, "attribute id -1 is outside"),
        ({"attribute_ids": []}, "1 boxes, 1 classes and 0 attribute lists"),
        ({"image": np.zeros((64, 64), np.uint8)}, "expected shape"),
    ],
)
def test_bad_examples_are_named(tiny_config: DetectorConfig, change: dict, message: str) -> None:
    good = {
        "image": np.zeros((64, 64, 3), np.uint8),
        "boxes": np.array([[0, 0, 10, 10]]),
        "class_ids": np.array([0]),
        "attribute_ids": [[0]],
    }
    check_example(Example(**good), "example 3", tiny_config)
    with pytest.raises(BadExampleError, match=message):
        check_example(Example(**{**good, **change}), "example 3", tiny_config)


def test_no_examples_is_an_error(tiny_config: DetectorConfig) -> None:
    with pytest.raises(BadExampleError, match="no training examples"):
        train_detector(tiny_config, DetectorTrainingConfig(), [])


def test_non_finite_loss_stops_before_the_step(tiny_config, examples, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []

    def poisoned(config: DetectorConfig, *, seed: int):
        model = build_detector(config, seed=seed)
        torch.nn.init.constant_(model.roi_heads.attribute_head.scores.bias, float("nan"))
        models.append((model, weights_to_bytes(model)))
        return model

    monkeypatch.setattr("detector.training.build_detector", poisoned)
    with pytest.raises(NonFiniteError, match=r"step 1: losses .*loss_attribute.* on examples \[.*lower learning_rate"):
        train_detector(tiny_config, DetectorTrainingConfig(steps=2, warmup_steps=1), examples)
    model, before = models[0]
    statistics = {name for name, _ in model.named_buffers()}  # batch statistics move in the forward pass
    after = model.state_dict()
    unchanged = [
        name for name, value in load(before).items() if torch.equal(value.nan_to_num(7), after[name].nan_to_num(7))
    ]
    assert set(after) - set(unchanged) <= statistics
