"""The objective on similarities small enough to work by hand."""

import math

import pytest
import torch

from vlp.alignment import LocalSimilarity, local_similarity
from vlp.batches import Encoded
from vlp.config import AlignmentConfig, LossConfig
from vlp.losses import contrastive, global_contrastive, local_contrastive, pretraining_loss


def random_encoded(seed, batch=4, slots=3, width=5):
    generator = torch.Generator().manual_seed(seed)
    local = torch.randn(batch, slots, width, generator=generator)
    return Encoded(torch.randn(batch, width, generator=generator), local, torch.ones(batch, slots, dtype=torch.bool))


def test_contrastive_by_hand():
    # Row 0: log(1 + e^((1 - 3) / 2)); row 1: log(1 + e^((5 - 4) / 2)).
    loss = contrastive(torch.tensor([[3.0, 1.0], [5.0, 4.0]]), temperature=2.0)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0.5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_contrastive_refuses_unpaired_batches():
    with pytest.raises(ValueError, match=r"\(2, 3\), not \(B, B\)"):
        contrastive(torch.zeros(2, 3), temperature=1.0)


def test_global_by_hand():
    # Orthogonal unit pairs: both directions are log(1 + e^(-1 / 0.05)); lengths do not matter.
    videos, texts = torch.tensor([[2.0, 0.0], [0.0, 0.1]]), torch.tensor([[0.3, 0.0], [0.0, 9.0]])
    loss = global_contrastive(videos, texts, temperature=0.5)
    assert loss.item() == pytest.approx(2 * math.log(1 + math.exp(-2)), rel=1e-6)


def test_global_is_the_sum_of_two_different_directions():
    # Cosines [[1, 0.6], [0, 0.8]] of videos e1, e2 and captions e1, (0.6, 0.8).
    videos, texts = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    video_to_text = (math.log(1 + math.exp(-0.4)) + math.log(1 + math.exp(-0.8))) / 2
    text_to_video = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(-0.2))) / 2
    loss = global_contrastive(videos, texts, temperature=1.0)
    assert loss.item() == pytest.approx(video_to_text + text_to_video, rel=1e-6)


def test_local_contrasts_videos_over_captions_and_captions_over_videos():
    # region_to_word by rows (Eq. 9): log(1 + e^(2-1)), log(1 + e^(3-4)).
    # word_to_region by columns (Eq. 12): caption 0 scores videos 1, 2: log(1 + e^(2-1)); caption 1 scores 5, 4: same.
    to_word, to_region = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 5.0], [2.0, 4.0]])
    loss = local_contrastive(LocalSimilarity(to_word, to_region), temperature=1.0)
    up, down = math.log(1 + math.e), math.log(1 + math.exp(-1))
    assert loss.item() == pytest.approx((up + down) / 2 + up, rel=1e-6)


def test_total_is_the_sum_of_its_parts():
    videos, texts = random_encoded(0), random_encoded(1)
    alignment, loss = AlignmentConfig(attention_temperature=0.3), LossConfig(temperature=0.1)
    losses = pretraining_loss(videos, texts, alignment, loss)
    local = local_contrastive(local_similarity(videos, texts, attention_temperature=0.3), temperature=0.1)
    torch.testing.assert_close(losses.global_, global_contrastive(videos.global_, texts.global_, temperature=0.1))
    torch.testing.assert_close(losses.local, local)
    torch.testing.assert_close(losses.total, losses.global_ + losses.local)


def test_base_has_no_local_term():
    videos, texts = random_encoded(0), random_encoded(1)
    losses = pretraining_loss(videos, texts, AlignmentConfig(use_local=False), LossConfig())
    assert losses.local.item() == 0
    assert torch.equal(losses.total, losses.global_)


@pytest.mark.parametrize("use_local", [True, False])
def test_one_pair_has_nothing_to_contrast(use_local):
    videos, texts = random_encoded(0, batch=1), random_encoded(1, batch=1)
    assert pretraining_loss(videos, texts, AlignmentConfig(use_local=use_local), LossConfig()).total.item() == 0


def test_descending_the_loss_aligns_random_embeddings():
    # The whole objective, differentiated: free embeddings must learn to tell their pairs apart.
    videos, texts = random_encoded(2), random_encoded(3)
    parameters = [x.requires_grad_() for x in (videos.global_, videos.local, texts.global_, texts.local)]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(100):
        losses = pretraining_loss(videos, texts, AlignmentConfig(), LossConfig())
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.global_ < 0.01
    assert losses.local < 0.01
    scores = local_similarity(videos, texts)
    assert torch.equal(scores.region_to_word.argmax(1), torch.arange(4))
    assert torch.equal(scores.word_to_region.argmax(0), torch.arange(4))


def test_float32_stays_float32():
    videos, texts = random_encoded(0), random_encoded(1)
    losses = pretraining_loss(videos, texts, AlignmentConfig(), LossConfig())
    assert {x.dtype for x in losses} == {torch.float32}
