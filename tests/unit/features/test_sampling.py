"""Frame choice by segments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.sampling import SamplingConfig, pick_frames, random_per_segment, uniform_midpoints

COUNTS = st.tuples(st.integers(1, 2000), st.integers(1, 64))


def test_hand_worked_example():
    """10 frames, 4 segments: cuts 0, 2, 5, 7, 10; segments 0-1, 2-4, 5-6, 7-9."""
    assert uniform_midpoints(10, 4).tolist() == [0, 3, 5, 8]


@given(COUNTS)
def test_indices_ascend_inside_the_clip_and_short_clips_give_each_frame_once(counts):
    n, k = counts
    for picked in (uniform_midpoints(n, k), random_per_segment(n, k, np.random.default_rng(0))):
        assert len(picked) == min(n, k)
        assert picked[0] >= 0
        assert picked[-1] < n
        assert (np.diff(picked) > 0).all()
    if n <= k:
        assert uniform_midpoints(n, k).tolist() == list(range(n))


@pytest.mark.parametrize(("n", "k"), [(0, 8), (5, 0), (-1, 2)])
def test_nothing_to_pick_is_an_error(n, k):
    with pytest.raises(ValueError, match="at least 1"):
        uniform_midpoints(n, k)


def test_random_choice_depends_on_seed_and_clip_alone():
    config = SamplingConfig(mode="random", seed=1)
    first = pick_frames(config, "clip", 500).tolist()
    assert pick_frames(config, "clip", 500).tolist() == first
    assert pick_frames(config, "other", 500).tolist() != first
    assert pick_frames(config.model_copy(update={"seed": 2}), "clip", 500).tolist() != first
