"""Retrieval metrics: recall at K, median and mean rank, from captions to videos and from videos to captions.

Ties. A rank is 1 + (rivals with a larger score) + what ties add:

- "mean" (default): the expected rank under random order of equal scores. A model that scores everything alike gets
  chance, neither 100 nor 0.
- "official": what the Frozen / DemoVLP code counts: from captions to videos a tie is won, from videos to captions it
  counts as the mean position, and a video's own other captions are rivals; half ranks are rounded down for R@5 and up
  (rank 5.5 is within 5), not for R@1. Only to compare with their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Ties = Literal["mean", "official"]
RECALL_LEVELS = (1, 5, 10, 50)


def retrieval_metrics(
    similarity: np.ndarray,
    video_of_caption: Sequence[int] | np.ndarray | None = None,
    *,
    ties: Ties = "mean",
    recall_levels: Sequence[int] = RECALL_LEVELS,
) -> dict[str, dict[str, float]]:
    """Metrics of both directions.

    Args:
        similarity: (T, V), larger is more alike.
        video_of_caption: (T,) column of the right video of every caption; several captions may share a video, and a
            video without captions is a distractor only. None: caption i belongs to video i.
        ties: see above.
        recall_levels: the K of R@K.
    Returns:
        {"t2v": m, "v2t": m}, m with "R@K" (percent of queries whose right answer ranks K or better), "MedR" and "MeanR"
        (1 is best), "geometric_mean" (of R@1, R@5, R@10 where all are asked for), "num_queries". A video counts with
        the best of its captions.
    Raises:
        ValueError: not a matrix, empty, a score that is not a number, or captions that point to no video.
    """
    similarity, videos = _checked(similarity, video_of_caption)
    return {
        "t2v": summarize_ranks(text_to_video_ranks(similarity, videos, ties=ties), recall_levels, ties=ties),
        "v2t": summarize_ranks(video_to_text_ranks(similarity, videos, ties=ties), recall_levels, ties=ties),
    }


def text_to_video_ranks(
    similarity: np.ndarray, video_of_caption: Sequence[int] | np.ndarray | None = None, *, ties: Ties = "mean"
) -> np.ndarray:
    """(T,) rank of every caption's video among all videos, 1 is best, halves where ties are shared."""
    similarity, videos = _checked(similarity, video_of_caption)
    right = similarity[np.arange(len(videos)), videos][:, None]
    above = (similarity > right).sum(axis=1)
    equal = (similarity == right).sum(axis=1) - 1
    return 1.0 + above + (0.0 if ties == "official" else equal / 2)


def video_to_text_ranks(
    similarity: np.ndarray, video_of_caption: Sequence[int] | np.ndarray | None = None, *, ties: Ties = "mean"
) -> np.ndarray:
    """Rank of the best of its captions for every video that has captions, in column order, 1 is best."""
    similarity, videos = _checked(similarity, video_of_caption)
    ranks = []
    for video in np.unique(videos):
        scores, own = similarity[:, video], videos == video
        best = scores[own].max()
        above = (scores > best).sum()
        equal, own_equal = (scores == best).sum(), (scores[own] == best).sum()
        if ties == "official":
            ranks.append(1 + above + (equal - 1) / 2)
        else:  # k rivals and m right ones in random order: k / (m + 1) rivals come before the first right one
            ranks.append(1 + above + (equal - own_equal) / (own_equal + 1))
    return np.array(ranks, dtype=np.float64)


def summarize_ranks(
    ranks: np.ndarray, recall_levels: Sequence[int] = RECALL_LEVELS, *, ties: Ties = "mean"
) -> dict[str, float]:
    """R@K in percent, MedR, MeanR, geometric mean of R@1, R@5, R@10, and the number of queries."""
    rounded = np.floor(ranks) if ties == "official" else ranks
    metrics = {f"R@{k}": float(100 * np.mean((ranks if k == 1 else rounded) <= k)) for k in recall_levels}
    metrics["MedR"] = float(np.median(ranks))
    metrics["MeanR"] = float(np.mean(ranks))
    if {1, 5, 10} <= set(recall_levels):
        metrics["geometric_mean"] = float(np.cbrt(metrics["R@1"] * metrics["R@5"] * metrics["R@10"]))
    metrics["num_queries"] = len(ranks)
    return metrics


def _checked(
    similarity: np.ndarray, video_of_caption: Sequence[int] | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or similarity.size == 0:
        raise ValueError(f"similarity must be a non-empty (captions, videos) matrix, found shape {similarity.shape}")
    bad = np.argwhere(np.isnan(similarity))
    if len(bad):
        raise ValueError(f"similarity of caption {bad[0][0]} and video {bad[0][1]} is NaN ({len(bad)} such)")
    num_captions, num_videos = similarity.shape
    if video_of_caption is None:
        if num_captions != num_videos:
            raise ValueError(
                f"{num_captions} captions and {num_videos} videos: say which caption belongs to which video"
            )
        return similarity, np.arange(num_captions)
    videos = np.asarray(video_of_caption)
    if videos.shape != (num_captions,) or not np.issubdtype(videos.dtype, np.integer):
        raise ValueError(f"video_of_caption must be {num_captions} integers, found {videos.dtype} {videos.shape}")
    if videos.min() < 0 or videos.max() >= num_videos:
        raise ValueError(f"video_of_caption must be in [0, {num_videos}), found {videos.min()} to {videos.max()}")
    return similarity, videos
