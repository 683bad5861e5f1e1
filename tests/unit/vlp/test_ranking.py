"""The retrieval matrix: orientation, tiles, padding, order of answers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlp.alignment import global_similarity, local_similarity
from vlp.batches import Encoded
from vlp.config import AlignmentConfig
from vlp.ranking import best_first, concatenate, similarity_matrix, take

CONFIG = AlignmentConfig()
# Float32 sums of at most 40 cosines in another order: a few ulp of 1.
ROUNDING = 2e-6


def random_encoded(num: int, slots: int, *, seed: int, width: int = 8) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, slots + 1, (num,), generator=generator)
    mask = torch.arange(slots)[None] < lengths[:, None]
    local = torch.randn(num, slots, width, generator=generator)
    local[~mask] = float("nan")
    return Encoded(torch.randn(num, width, generator=generator), local, mask)


def slow_matrix(videos: Encoded, texts: Encoded) -> np.ndarray:
    """One caption and one video at a time, their padding cut off."""
    matrix = np.empty((len(texts), len(videos)), dtype=np.float32)
    for t in range(len(texts)):
        for v in range(len(videos)):
            one = [
                Encoded(e.global_[i : i + 1], e.local[i : i + 1, e.mask[i]], e.mask[i : i + 1, e.mask[i]])
                for e, i in ((videos, v), (texts, t))
            ]
            local = local_similarity(*one)
            total = global_similarity(one[0].global_, one[1].global_) + local.region_to_word + local.word_to_region
            matrix[t, v] = total.item()
    return matrix


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 8), st.integers(1, 8), st.integers(0, 5))
def test_tiled_equals_untiled_equals_slow_loop(num_videos, num_texts, tile_videos, tile_texts, seed):
    videos = random_encoded(num_videos, 5, seed=seed)
    texts = random_encoded(num_texts, 4, seed=seed + 100)
    tiled = similarity_matrix(videos, texts, CONFIG, tile_videos=tile_videos, tile_texts=tile_texts)
    whole = similarity_matrix(videos, texts, CONFIG, tile_videos=100, tile_texts=100)
    assert tiled.shape == (num_texts, num_videos)
    np.testing.assert_allclose(tiled, whole, atol=ROUNDING)
    np.testing.assert_allclose(tiled, slow_matrix(videos, texts), atol=ROUNDING)


def test_rows_are_captions_in_both_terms():
    """Video 0 fits caption 1 globally and locally, and nothing else fits: an untransposed sum would split."""
    axes = torch.eye(4)
    videos = Encoded(axes[[0, 1]], axes[[0, 1]][:, None], torch.ones(2, 1, dtype=torch.bool))
    texts = Encoded(axes[[2, 0]], axes[[2, 0]][:, None], torch.ones(2, 1, dtype=torch.bool))
    np.testing.assert_allclose(similarity_matrix(videos, texts, CONFIG), [[0, 0], [3, 0]], atol=1e-6)


def test_base_model_ranks_by_the_global_term_alone():
    videos, texts = random_encoded(3, 5, seed=0), random_encoded(4, 4, seed=1)
    found = similarity_matrix(videos, texts, AlignmentConfig(use_local=False), tile_videos=2, tile_texts=3)
    np.testing.assert_allclose(found, global_similarity(videos.global_, texts.global_).T, atol=1e-6)


def test_concatenate_pads_and_changes_no_score():
    parts = [random_encoded(2, 5, seed=0), random_encoded(3, 7, seed=1)]
    whole, texts = concatenate(parts), random_encoded(3, 4, seed=2)
    assert whole.local.shape == (5, 7, 8)
    expected = np.concatenate([similarity_matrix(part, texts, CONFIG) for part in parts], axis=1)
    np.testing.assert_allclose(similarity_matrix(whole, texts, CONFIG), expected, atol=ROUNDING)


def test_take_keeps_rows_together():
    encoded = random_encoded(4, 3, seed=0)
    some = take(encoded, [2, 0])
    assert torch.equal(some.global_, encoded.global_[[2, 0]])
    assert torch.equal(some.mask, encoded.mask[[2, 0]])


@pytest.mark.parametrize("top_k", [1, 3, 9])
def test_equal_scores_keep_their_order(top_k):
    order = best_first(np.array([[0.5, 1.0, 0.5, 1.0, 0.0]]), top_k)
    assert order[0].tolist() == [1, 3, 0, 2, 4][:top_k]
