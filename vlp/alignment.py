"""How alike a video and a caption are: globally by [CLS], locally by regions and words that look for each other.

The local similarity is the paper's (Cai et al. 2022, Eq. 6-8 and 10-11). Every region attends to the words of the
caption (Eq. 6), keeps the words above its mean attention (Eq. 7), adds them up weighted, and is compared with the sum
(Eq. 8); every word does the same with the regions (Eq. 10-11). Decisions the equations leave open, in one place:

- Padding takes no part in any softmax, threshold or mean (in the release it does).
- Eq. 10 prints the threshold of word l over N regions as (1/L) sum_n a_ln; the mean is meant, so 1/N.
- "Above the mean" is strict. Where nothing exceeds the mean (one slot, or all attention equal) all slots are kept:
  a refinement that would leave nothing refines nothing.
- Eq. 6 has no temperature; `attention_temperature` divides the cosines before the softmax, 1 by default.
- Refined weights are not renormalised to sum 1 (Eq. 7); since <.,.> is the cosine, that would change nothing.
- Attended vectors add the embeddings as they are, so a longer embedding weighs more (the release adds unit vectors;
  pass unit vectors to get that).
- A vector of length zero, given or attended, has similarity 0 to everything, and gradient 0.

The attended vectors are never built: with dot products s and the Gram matrix G of what is attended to,
cos(r, sum_l a_l t_l) = a.s / sqrt(a' G a), O(V T R W) memory instead of O(V T R D). Everything here runs in float32 at
least, also under autocast: the hard threshold makes half precision flip whole words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vlp.batches import Encoded
from vlp.config import AlignmentConfig

ZERO_NORM = 1e-12  # at or below it a vector has no direction
# Squared length of an attended vector over the squared sum of its terms' lengths. Below, the terms cancel to one part
# in a thousand and float32 has no digits left for a direction: the cosine then fades to 0 instead of blowing up.
CANCELLED = 1e-6


class LocalSimilarity(NamedTuple):
    """Region-word similarities of V videos and T captions, both indexed [video, caption], in [-1, 1].

    Attributes:
        region_to_word: (V, T) S_ij of Eq. 8, the mean over regions.
        word_to_region: (V, T) S_ji of Eq. 11 transposed, the mean over words.
    """

    region_to_word: Tensor
    word_to_region: Tensor


def global_similarity(videos: Tensor, texts: Tensor) -> Tensor:
    """(V, d) and (T, d) [CLS] embeddings of any norm to their (V, T) cosines (Eq. 4-5)."""
    with _full_precision(videos):
        return unit_vectors(_at_least_float32(videos)) @ unit_vectors(_at_least_float32(texts)).T


def region_word_similarity(
    regions: Tensor, words: Tensor, *, region_mask: Tensor, word_mask: Tensor, attention_temperature: float = 1.0
) -> Tensor:
    """Similarity of every video to every caption from region -> word attention (Eq. 6-8).

    Args:
        regions: (V, R, D) region embeddings, any norm.
        words: (T, W, D) word embeddings, any norm.
        region_mask: (V, R) True where a region exists.
        word_mask: (T, W) True for real words.
        attention_temperature: divides the cosines of Eq. 6; the paper has 1.
    Returns:
        (V, T) mean cosine between each region and its attended sentence, in [-1, 1].
    Raises:
        ValueError: a video without regions or a caption without words.
    """
    _check_slots(region_mask, "video", "region")
    _check_slots(word_mask, "caption", "word")
    return _attended_similarity(regions, words, region_mask, word_mask, attention_temperature)


def word_region_similarity(
    regions: Tensor, words: Tensor, *, region_mask: Tensor, word_mask: Tensor, attention_temperature: float = 1.0
) -> Tensor:
    """Similarity of every video to every caption from word -> region attention (Eq. 10-11).

    Arguments and errors as `region_word_similarity`.

    Returns:
        (V, T) mean cosine between each word and its attended video, in [-1, 1]: the transpose of Eq. 11's S_ji.
    """
    _check_slots(region_mask, "video", "region")
    _check_slots(word_mask, "caption", "word")
    return _attended_similarity(words, regions, word_mask, region_mask, attention_temperature).T


def local_similarity(
    videos: Encoded,
    texts: Encoded,
    *,
    attention_temperature: float = 1.0,
    videos_per_tile: int | None = None,
    texts_per_tile: int | None = None,
) -> LocalSimilarity:
    """Both directions of the region-word similarity, in tiles of (videos, captions).

    Args:
        videos: V encoded videos.
        texts: T encoded captions.
        attention_temperature: as in region_word_similarity.
        videos_per_tile: videos compared at once; None: all. Without gradients tiles bound the
            memory; with them the graph keeps 60 to 100 bytes (measured) per video, caption, region and word anyway.
            They change no value beyond rounding.
        texts_per_tile: captions compared at once; None: all.
    Raises:
        ValueError: a video without regions or a caption without words.
    """
    _check_slots(videos.mask, "video", "region")
    _check_slots(texts.mask, "caption", "word")
    rows = []
    for v in _tiles(len(videos), videos_per_tile):
        blocks = []
        for t in _tiles(len(texts), texts_per_tile):
            regions, region_mask, words, word_mask = videos.local[v], videos.mask[v], texts.local[t], texts.mask[t]
            to_words = _attended_similarity(regions, words, region_mask, word_mask, attention_temperature)
            to_regions = _attended_similarity(words, regions, word_mask, region_mask, attention_temperature)
            blocks.append(torch.stack([to_words, to_regions.T]))
        rows.append(torch.cat(blocks, dim=2))
    return LocalSimilarity(*torch.cat(rows, dim=1))


def similarity(
    videos: Encoded,
    texts: Encoded,
    config: AlignmentConfig,
    *,
    videos_per_tile: int | None = None,
    texts_per_tile: int | None = None,
) -> Tensor:
    """(V, T) similarity that ranks: global, plus both local directions where the model uses them.

    Source: Appendix A.3, "we sum up the video-sentence and region-word similarities". In [-1, 1] or [-3, 3].
    """
    total = global_similarity(videos.global_, texts.global_)
    if config.use_local:
        local = local_similarity(
            videos,
            texts,
            attention_temperature=config.attention_temperature,
            videos_per_tile=videos_per_tile,
            texts_per_tile=texts_per_tile,
        )
        total = total + local.region_to_word + local.word_to_region
    return total


def alignment_weights(
    regions: Tensor, words: Tensor, *, region_mask: Tensor, word_mask: Tensor, attention_temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The alignment of one video and one caption, for pictures.

    Args:
        regions: (R, D) region embeddings.
        words: (W, D) word embeddings.
        region_mask: (R,) True where a region exists.
        word_mask: (W,) True for real words.
        attention_temperature: as in region_word_similarity.
    Returns:
        (R, W) refined weights a'_nl of every region over the words (Eq. 7), and (W, R) of every word over the regions
        (Eq. 10). Zero at dropped and at padded slots; rows are not renormalised, so they sum to at most 1.
    Raises:
        ValueError: no region or no word.
    """
    _check_slots(region_mask[None], "video", "region")
    _check_slots(word_mask[None], "caption", "word")
    with _full_precision(regions):
        unit_regions = unit_vectors(_real(regions, region_mask))
        unit_words = unit_vectors(_real(words, word_mask))
        cosine = unit_regions @ unit_words.T
        to_words = refined_attention(cosine, word_mask, attention_temperature) * region_mask[:, None]
        to_regions = refined_attention(cosine.T, region_mask, attention_temperature) * word_mask[:, None]
    return to_words, to_regions


def refined_attention(cosine: Tensor, mask: Tensor, attention_temperature: float = 1.0) -> Tensor:
    """Attention over the last axis, without what does not exceed its own mean (Eq. 6-7 and Eq. 10).

    Args:
        cosine: (..., N) cosine of a query and each slot.
        mask: broadcastable to cosine, True for real slots; at least one per row.
        attention_temperature: divides the cosines; the paper has 1.
    Returns:
        (..., N) refined weights a', zero at dropped slots and padding, not renormalised. The threshold passes no
        gradient, the weights it keeps do.
    """
    attention = (cosine / attention_temperature).masked_fill(~mask, float("-inf")).softmax(dim=-1)
    mean = attention.sum(dim=-1, keepdim=True) / mask.sum(dim=-1, keepdim=True)
    kept = attention > mean
    kept = kept | (mask & ~kept.any(dim=-1, keepdim=True))
    return attention * kept


def unit_vectors(vectors: Tensor) -> Tensor:
    """(..., D) scaled to length 1; a zero vector stays zero and passes no gradient."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    real = norms > ZERO_NORM
    return torch.where(real, vectors / torch.where(real, norms, 1), 0)


def _attended_similarity(
    queries: Tensor, slots: Tensor, query_mask: Tensor, slot_mask: Tensor, attention_temperature: float
) -> Tensor:
    """(Q, N, D) queries attend to (K, M, D) slots: (Q, K) mean over real queries of cos(query, attended slots)."""
    with _full_precision(queries):
        queries, slots = _real(queries, query_mask), _real(slots, slot_mask)
        num_queries, length, _ = queries.shape
        # The cosine does not depend on the slots' scale; the largest at 1 keeps the squares in range.
        norms = torch.linalg.vector_norm(slots, dim=-1)
        scale = norms.detach().amax(dim=-1, keepdim=True).clamp(min=ZERO_NORM)
        slots, norms = slots / scale[..., None], norms / scale
        gram = slots @ slots.transpose(1, 2)

        unit_slots = unit_vectors(slots)
        cosine = torch.einsum("xd,kmd->kxm", unit_vectors(queries).flatten(0, 1), unit_slots)  # x = Q * N
        weights = refined_attention(cosine, slot_mask[:, None], attention_temperature)

        terms = weights * norms[:, None]
        dot = (terms * cosine).sum(dim=-1)
        squared = ((weights @ gram) * weights).sum(dim=-1)
        reach = terms.sum(dim=-1).square()
        real = reach > ZERO_NORM
        length_of_sum = torch.where(real, torch.maximum(squared, CANCELLED * reach), 1).sqrt()
        cosines = torch.where(real, dot / length_of_sum, 0).unflatten(1, (num_queries, length))  # (K, Q, N)
        counted = cosines.masked_fill(~query_mask, 0)
        return (counted.sum(dim=-1) / query_mask.sum(dim=-1)).T


def _real(vectors: Tensor, mask: Tensor) -> Tensor:
    """At least float32, and zero in padded slots, so that nothing there (not even NaN) reaches a value or gradient."""
    return _at_least_float32(vectors).masked_fill(~mask[..., None], 0)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _full_precision(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


def _tiles(length: int, size: int | None) -> Iterator[slice]:
    size = size or max(length, 1)
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _check_slots(mask: Tensor, owner: str, slot: str) -> None:
    empty = (~mask.any(dim=1)).nonzero().flatten()
    if len(empty):
        raise ValueError(
            f"{owner} {empty[0].item()} of {len(mask)} has no {slot} "
            f"({len(empty)} such): a {owner} needs at least one to be aligned; leave it out of the batch"
        )
