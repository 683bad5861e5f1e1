"""Fixtures of the features tests."""

from pathlib import Path

import pytest

from tests.unit.features.barcode_videos import KINDS, write_video


@pytest.fixture
def videos(tmp_path):
    """Function (kind name, number of frames, cut=0) -> path of a barcode video."""

    def make(name: str, num_frames: int, *, cut: int = 0) -> Path:
        path = tmp_path / f"{name}_{num_frames}_{cut}{KINDS[name].suffix}"
        write_video(path, KINDS[name], num_frames, cut=cut)
        return path

    return make
