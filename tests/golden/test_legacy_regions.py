"""Region files of bottom-up-attention.pytorch against the released reader."""

import numpy as np
import pytest

from features.legacy_regions import PaddedRegions, padded, read_frames_of_video, read_region_file

CASES = {"f8_k30": 30, "f1_k30": 30, "f3_k5": 5, "dup_k10": 10, "unsorted_k10": 10}


@pytest.fixture(scope="module")
def golden(test_data):
    with np.load(test_data / "golden/demovlp/07_region_reading.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def video(test_data):
    return test_data / "golden/demovlp/07_region_files/video0"


def release_layout(regions: PaddedRegions) -> np.ndarray:
    """(F, K, 2048 + 6): features, then x1, y1, x2, y2, width, height, each relative to the image."""
    relative = regions.boxes / np.tile(regions.image_size_px, 2)[:, None]
    return np.concatenate([regions.features, relative, relative[..., 2:] - relative[..., :2]], axis=2)


@pytest.mark.parametrize("case", CASES)
def test_order_padding_and_mask_are_those_of_the_release(golden, video, case):
    regions = read_frames_of_video(video, golden[f"{case}_frame_idxs"].tolist(), CASES[case])
    expected = golden[f"{case}_object"]
    ours = release_layout(regions)
    np.testing.assert_array_equal(ours[..., :2048], expected[..., :2048])
    np.testing.assert_allclose(ours[..., 2048:], expected[..., 2048:], rtol=0, atol=2e-7)  # one float32 rounding
    np.testing.assert_array_equal(regions.mask, golden[f"{case}_mask01"] == 1)
    np.testing.assert_array_equal(regions.num_regions, golden[f"{case}_len"])


def test_image_reader(golden, video):
    regions = padded([read_region_file(video / "0.npz")], 30)
    np.testing.assert_allclose(release_layout(regions), golden["cc_object"], rtol=0, atol=2e-7)
    np.testing.assert_array_equal(regions.mask, golden["cc_mask01"] == 1)
