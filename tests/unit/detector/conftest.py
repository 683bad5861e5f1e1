"""Drawn examples and a tiny network, shared by the detector's tests."""

import os

import pytest
import torch

from detector.config import DetectorConfig
from detector.inference import RegionDetector
from detector.training import DetectorTrainingConfig, Example, StepReport, train_detector
from tests.unit.detector import drawn_examples


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Other test processes share the cores; waiting threads cost more than they give on networks of this size."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    return [drawn_examples.draw_example(index) for index in range(32)]


@pytest.fixture(scope="session")
def tiny_config() -> DetectorConfig:
    return drawn_examples.tiny_config()


@pytest.fixture(scope="session")
def trained(
    tiny_config: DetectorConfig, examples: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RegionDetector, list[StepReport]]:
    """A detector after 160 steps on the drawn examples, through a weight file, and what training reported."""
    reports: list[StepReport] = []
    training = DetectorTrainingConfig(steps=160, batch_size=8, learning_rate=1e-2, warmup_steps=5, seed=1)
    weights = train_detector(tiny_config, training, examples, on_step=reports.append)
    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    path.write_bytes(weights)
    return RegionDetector(tiny_config, path), reports
