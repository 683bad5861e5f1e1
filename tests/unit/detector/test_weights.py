"""Only a weight file that fits in every name and shape is loaded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from detector.config import DetectorConfig
from detector.inference import RegionDetector
from detector.model import build_detector
from detector.selection import NonFiniteError
from detector.weights import WrongWeightsError, weights_to_bytes


@pytest.fixture
def tensors(tiny_config: DetectorConfig) -> dict[str, torch.Tensor]:
    return load(weights_to_bytes(build_detector(tiny_config, seed=3)))


def _load(config: DetectorConfig, tensors: dict[str, torch.Tensor], tmp_path: Path) -> RegionDetector:
    path = tmp_path / "some.safetensors"
    path.write_bytes(save(tensors))
    return RegionDetector(config, path)


def test_saved_weights_come_back(tiny_config, tensors, tmp_path: Path) -> None:
    detector = _load(tiny_config, tensors, tmp_path)
    assert load(weights_to_bytes(detector._model)).keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in detector._model.state_dict().items())


def test_missing_and_foreign_tensors_are_named(tiny_config, tensors, tmp_path: Path) -> None:
    del tensors["roi_heads.attribute_head.scores.bias"]
    tensors["roi_heads.attr_score.bias"] = torch.zeros(3)
    with pytest.raises(WrongWeightsError) as caught:
        _load(tiny_config, tensors, tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "some.safetensors") in message
    assert "1 tensors are missing (roi_heads.attribute_head.scores.bias)" in message
    assert "1 are not part of the network (roi_heads.attr_score.bias)" in message
    assert "preset 'demo' with 2 classes and 3 attributes" in message


def test_another_vocabulary_is_refused_by_shape(tiny_config, tensors, tmp_path: Path) -> None:
    wider = DetectorConfig.model_validate(tiny_config.model_dump() | {"num_classes": 5})
    with pytest.raises(WrongWeightsError, match=r"cls_score.weight: file float32 \(3, 32\), network float32 \(6, 32\)"):
        _load(wider, tensors, tmp_path)


def test_an_empty_file_of_tensors_is_refused(tiny_config, tmp_path: Path) -> None:
    with pytest.raises(WrongWeightsError, match=r"tensors are missing \(.* and \d+ more\)"):
        _load(tiny_config, {}, tmp_path)


def test_non_finite_weights_are_refused(tiny_config, tensors, tmp_path: Path) -> None:
    tensors["backbone.stem.conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"backbone\.stem\.conv1\.weight"):
        _load(tiny_config, tensors, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95 a pickle", b"\xff" * 64])
def test_other_files_are_refused(tiny_config, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    with pytest.raises(WrongWeightsError, match=r"weights\.pkl is not a safetensors file"):
        RegionDetector(tiny_config, path)


def test_a_missing_file_is_named(tiny_config, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors do not exist"):
        RegionDetector(tiny_config, tmp_path / "nothing.safetensors")
