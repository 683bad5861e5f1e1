"""Frame choice against the released sampler."""

import json
from itertools import pairwise

import numpy as np
import pytest

from features.sampling import random_per_segment, uniform_midpoints


@pytest.fixture(scope="module")
def cases(test_data):
    """{(frames asked for, frames there are): the release's answer}."""
    golden = json.loads((test_data / "golden/demovlp/07_frame_sampling.json").read_text())
    assert golden
    return {tuple(int(part.lstrip("numvle")) for part in key.split("_")): value for key, value in golden.items()}


def test_uniform_is_equal_to_the_release_in_every_case(cases):
    for (k, n), golden in cases.items():
        assert uniform_midpoints(n, k).tolist() == golden["uniform"], (k, n)


def test_random_reaches_what_the_release_reaches_and_the_last_frame_of_each_segment(cases):
    """Deviation: the release never draws a segment's last frame and fails on segments of one frame."""
    for (k, n), golden in cases.items():
        count = min(k, n)
        rng = np.random.default_rng(0)
        draws = np.stack([random_per_segment(n, k, rng) for _ in range(60 * n // count + 60)])
        cuts = np.floor(np.linspace(0, n, count + 1)).astype(int)
        reached = [set(column.tolist()) for column in draws.T]
        assert reached == [set(range(a, b)) for a, b in pairwise(cuts)], (k, n)
        if isinstance(golden["rand"], list):
            assert [ours - {int(b) - 1} for ours, b in zip(reached, cuts[1:])] == [set(slot) for slot in golden["rand"]]
        else:
            assert golden["rand"].startswith("IndexError")
            assert any(b - a == 1 for a, b in pairwise(cuts))
