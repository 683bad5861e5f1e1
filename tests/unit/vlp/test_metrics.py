"""Retrieval metrics on matrices worked by hand, and ties against every order they could have had."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.metrics import retrieval_metrics, summarize_ranks, text_to_video_ranks, video_to_text_ranks

# Captions 0, 1, 2 of videos 0, 1, 2. Caption 0 ranks its video 1st; caption 1 2nd (0.9 before 0.5); caption 2 3rd.
SCORES = np.array([[0.9, 0.1, 0.2], [0.9, 0.5, 0.1], [0.3, 0.2, 0.1]])


def test_text_to_video_by_hand():
    assert text_to_video_ranks(SCORES).tolist() == [1, 2, 3]
    metrics = retrieval_metrics(SCORES, recall_levels=(1, 2))["t2v"]
    assert metrics == pytest.approx({"R@1": 100 / 3, "R@2": 200 / 3, "MedR": 2, "MeanR": 2, "num_queries": 3})


def test_video_to_text_by_hand():
    # Video 0: captions 0 and 1 tie at 0.9, caption 0 is right: 1.5. Video 1: its caption 1 leads. Video 2: 0.1, after 0.2,
    # tied with caption 1: 2.5.
    assert video_to_text_ranks(SCORES).tolist() == [1.5, 1, 2.5]


def test_several_captions_count_with_the_best():
    # Captions 0, 1 belong to video 0 and 2, 3 to video 1.
    scores = np.array([[0.1, 0.0], [0.8, 0.9], [0.9, 0.2], [0.3, 0.4]])
    owners = [0, 0, 1, 1]
    assert text_to_video_ranks(scores, owners).tolist() == [1, 2, 2, 1]
    # Video 0: best own caption 0.8, one rival above (0.9). Video 1: best own 0.4, one rival above (0.9).
    assert video_to_text_ranks(scores, owners).tolist() == [2, 2]


def test_captions_in_any_order_and_videos_without_captions():
    scores = np.array([[0.1, 0.7, 0.9], [0.6, 0.2, 0.1]])  # caption 0 of video 1, caption 1 of video 0; 2 distracts
    assert text_to_video_ranks(scores, [1, 0]).tolist() == [2, 1]
    assert video_to_text_ranks(scores, [1, 0]).tolist() == [1, 1]
    metrics = retrieval_metrics(scores, [1, 0])
    assert metrics["t2v"]["num_queries"] == metrics["v2t"]["num_queries"] == 2


def test_a_constant_score_is_chance_not_success():
    metrics = retrieval_metrics(np.zeros((9, 9)))
    for direction in ("t2v", "v2t"):
        assert metrics[direction]["R@1"] == 0
        assert metrics[direction]["MedR"] == 5
        assert metrics[direction]["MeanR"] == 5


def test_official_ties():
    assert text_to_video_ranks(np.zeros((3, 3)), ties="official").tolist() == [1, 1, 1]  # won
    assert video_to_text_ranks(np.zeros((3, 3)), ties="official").tolist() == [2, 2, 2]  # middle
    assert video_to_text_ranks(np.zeros((4, 2)), [0, 0, 1, 1], ties="official").tolist() == [2.5, 2.5]  # own are rivals
    assert video_to_text_ranks(np.zeros((4, 2)), [0, 0, 1, 1]).tolist() == pytest.approx([1 + 2 / 3] * 2)


def test_summary():
    metrics = summarize_ranks(np.array([1, 4, 8, 60]))
    expected = {"R@1": 25, "R@5": 50, "R@10": 75, "R@50": 75, "MedR": 6, "MeanR": 18.25, "num_queries": 4}
    assert {k: metrics[k] for k in expected} == expected
    assert metrics["geometric_mean"] == pytest.approx((25 * 50 * 75) ** (1 / 3))


@pytest.mark.parametrize(
    ("scores", "owners", "message"),
    [
        (np.zeros((0, 3)), None, "non-empty"),
        (np.zeros(3), None, "matrix"),
        (np.zeros((2, 3)), None, "2 captions and 3 videos"),
        (np.array([[0.0, np.nan], [0.0, 0.0]]), None, "caption 0 and video 1 is NaN"),
        (np.zeros((2, 2)), [0], "2 integers"),
        (np.zeros((2, 2)), [0.0, 1.0], "2 integers"),
        (np.zeros((2, 2)), [0, 2], r"\[0, 2\)"),
        (np.zeros((2, 2)), [-1, 0], r"\[0, 2\)"),
    ],
)
def test_wrong_input_is_refused(scores, owners, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(scores, owners)


def rank_over_all_orders(scores, right):
    """Mean over all orders of the candidates of the place of the first right one, sorting stably by score."""
    places = []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda i: -scores[i])
        places.append(1 + next(place for place, i in enumerate(ranked) if right[i]))
    return np.mean(places)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_mean_ties_are_the_expectation_over_random_orders(data):
    num_captions, num_videos = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    owners = np.array([data.draw(st.integers(0, num_videos - 1)) for _ in range(num_captions)])
    scores = np.array([[data.draw(st.integers(0, 2)) for _ in range(num_videos)] for _ in range(num_captions)])
    expected = [rank_over_all_orders(row, np.arange(num_videos) == owner) for row, owner in zip(scores, owners)]
    np.testing.assert_allclose(text_to_video_ranks(scores, owners), expected)
    expected = [rank_over_all_orders(scores[:, video], owners == video) for video in np.unique(owners)]
    np.testing.assert_allclose(video_to_text_ranks(scores, owners), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_only_the_order_of_scores_matters(seed):
    rng = np.random.default_rng(seed)
    scores, owners = rng.normal(size=(8, 5)), rng.integers(0, 5, size=8)
    assert retrieval_metrics(scores, owners) == retrieval_metrics(np.exp(3 * scores), owners)
    assert retrieval_metrics(scores, owners) == retrieval_metrics(scores, owners, ties="official")  # no ties here
