"""The objective: contrast of videos and captions, globally and region by word (paper section 3.3).

A batch holds B pairs; pair i is video i and caption i, every other combination counts as a negative (two equal captions
in a batch too: the paper and the release make no exception).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlp.alignment import LocalSimilarity, global_similarity, local_similarity
from vlp.batches import Encoded
from vlp.config import AlignmentConfig, LossConfig


class Losses(NamedTuple):
    """Scalars of one batch: total is what to minimise, the others are its parts (local is 0 where unused)."""

    total: Tensor
    global_: Tensor
    local: Tensor


def pretraining_loss(videos: Encoded, texts: Encoded, alignment: AlignmentConfig, loss: LossConfig) -> Losses:
    """L = L_v2l^global + L_l2v^global + L_v2l^local + L_l2v^local, without the local terms for the paper's Base.

    Args:
        videos: B encoded videos.
        texts: B encoded captions; caption i belongs to video i.
        alignment: whether and how regions and words are compared.
        loss: temperature.
    Raises:
        ValueError: numbers of videos and captions differ; a video without regions or a caption without words.
    """
    global_ = global_contrastive(videos.global_, texts.global_, temperature=loss.temperature)
    if not alignment.use_local:
        return Losses(global_, global_, torch.zeros_like(global_))
    similarity = local_similarity(videos, texts, attention_temperature=alignment.attention_temperature)
    local = local_contrastive(similarity, temperature=loss.temperature)
    return Losses(global_ + local, global_, local)


def global_contrastive(videos: Tensor, texts: Tensor, *, temperature: float = 0.05) -> Tensor:
    """Sum of Eq. 4 and Eq. 5: both directions, each a mean over the batch, on cosines of (B, d) [CLS] embeddings."""
    similarity = global_similarity(videos, texts)
    return contrastive(similarity, temperature=temperature) + contrastive(similarity.T, temperature=temperature)


def local_contrastive(similarity: LocalSimilarity, *, temperature: float = 0.05) -> Tensor:
    """Sum of Eq. 9 (videos over captions, region -> word) and Eq. 12 (captions over videos, word -> region).

    The release differs: one reverse KL divergence over captions on the sum of both scores.
    """
    video_to_text = contrastive(similarity.region_to_word, temperature=temperature)
    return video_to_text + contrastive(similarity.word_to_region.T, temperature=temperature)


def contrastive(similarity: Tensor, *, temperature: float) -> Tensor:
    """Mean over rows of -log softmax(row / temperature) at the diagonal of a (B, B) similarity.

    Raises:
        ValueError: not a square matrix.
    """
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(
            f"similarity is {tuple(similarity.shape)}, not (B, B): row i and column i must be one pair; pass as many "
            "captions as videos"
        )
    targets = torch.arange(len(similarity), device=similarity.device)
    return F.cross_entropy(similarity / temperature, targets)
