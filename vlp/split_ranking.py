"""A split encoded and compared, every caption with every clip: what validation and evaluation both need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vlp.batches import Encoded
from vlp.data import ClipSource
from vlp.encoding import encode_captions, encode_clips
from vlp.metrics import retrieval_metrics
from vlp.models.dual_encoder import DualEncoder
from vlp.ranking import similarity_matrix
from vlp.train_config import RetrievalConfig


@dataclass(frozen=True)
class Ranking:
    """A split, encoded and compared.

    Attributes:
        captions: T queries. caption_ids: their ids, "<clip id>#<number of the caption>".
        video_of_caption: (T,) place of the clip of each.
        videos, texts: embeddings of V clips and T captions, on the CPU.
        similarity: (T, V).
        metrics: {"t2v": ..., "v2t": ...}, see vlp.metrics.retrieval_metrics.
    """

    captions: list[str]
    caption_ids: list[str]
    video_of_caption: np.ndarray
    videos: Encoded
    texts: Encoded
    similarity: np.ndarray
    metrics: dict[str, dict[str, float]]


def rank_source(
    model: DualEncoder, source: ClipSource, config: RetrievalConfig, *, device: torch.device | str = "cpu"
) -> Ranking:
    """Encode every clip and caption of a source and compare all with all."""
    asked = [texts if config.captions_per_clip == "all" else texts[:1] for texts in source.captions]
    captions = [caption for texts in asked for caption in texts]
    video_of_caption = np.repeat(np.arange(len(source)), [len(texts) for texts in asked])
    videos = encode_clips(model, source, config, device=device)
    texts = encode_captions(model, captions, batch_size=config.encode_batch_size, device=device)
    similarity = similarity_matrix(
        videos,
        texts,
        model.config.alignment,
        tile_videos=config.tile_videos,
        tile_texts=config.tile_texts,
        device=device,
    )
    return Ranking(
        captions=captions,
        caption_ids=[f"{clip_id}#{i}" for clip_id, some in zip(source.clip_ids, asked) for i in range(len(some))],
        video_of_caption=video_of_caption,
        videos=videos,
        texts=texts,
        similarity=similarity,
        metrics=retrieval_metrics(similarity, video_of_caption, ties=config.ties),
    )
