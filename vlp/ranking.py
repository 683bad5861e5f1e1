"""Every caption against every video: the matrix that retrieval ranks, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
import torch
import torch.nn.functional as F

from vlp.alignment import similarity
from vlp.batches import Encoded
from vlp.config import AlignmentConfig


@torch.inference_mode()
def similarity_matrix(
    videos: Encoded,
    texts: Encoded,
    config: AlignmentConfig,
    *,
    tile_videos: int = 64,
    tile_texts: int = 64,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """(T, V) float32: global + region-to-word + word-to-region similarity of caption t and video v.

    Only one tile of embeddings lies on `device` at a time; working memory grows with
    tile_videos x tile_texts x regions x words, not with V or T.

    Source: Cai et al. 2022, A.3 ("we sum up the video-sentence and region-word similarities"). The release adds its
    local (video, text) matrix to its global (text, video) one without transposing; here both are (T, V).
    """
    matrix = np.empty((len(texts), len(videos)), dtype=np.float32)
    for columns in _tiles(len(videos), tile_videos):
        some_videos = take(videos, columns).to(device)
        for rows in _tiles(len(texts), tile_texts):
            tile = similarity(some_videos, take(texts, rows).to(device), config)
            matrix[rows, columns] = tile.T.cpu().numpy()
    return matrix


def best_first(scores: np.ndarray, top_k: int) -> np.ndarray:
    """(..., min(top_k, N)) indices of the largest of (..., N) scores, best first; equal scores keep their order."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :top_k]


def take(encoded: Encoded, rows: slice | Sequence[int]) -> Encoded:
    """Some rows of encoded videos or captions."""
    return Encoded(**{field.name: getattr(encoded, field.name)[rows] for field in fields(Encoded)})


def concatenate(parts: Sequence[Encoded]) -> Encoded:
    """Batches one after the other; slots are padded (mask False) to the longest batch."""
    length = max(part.local.shape[1] for part in parts)
    short = [length - part.local.shape[1] for part in parts]
    return Encoded(
        torch.cat([part.global_ for part in parts]),
        torch.cat([F.pad(part.local, (0, 0, 0, missing)) for part, missing in zip(parts, short, strict=True)]),
        torch.cat([F.pad(part.mask, (0, missing)) for part, missing in zip(parts, short, strict=True)]),
    )


def _tiles(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
