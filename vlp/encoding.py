"""A whole split through the encoders, batch by batch, in full precision and without chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from vlp.batches import Encoded
from vlp.data import ClipSource
from vlp.models.dual_encoder import DualEncoder
from vlp.order import SAMPLE, draws
from vlp.ranking import concatenate
from vlp.train_config import RetrievalConfig


def encode_clips(
    model: DualEncoder, source: ClipSource, config: RetrievalConfig, *, device: torch.device | str = "cpu"
) -> Encoded:
    """Embeddings of all clips of a source, in its order, on the CPU."""
    parts = []
    with _inference(model):
        for places in _batches(len(source), config.encode_batch_size):
            batch = source.video_batch(places, frame_draws(source, places, config))
            parts.append(model.encode_video(batch.to(device)).to("cpu"))
    return concatenate(parts)


def encode_captions(
    model: DualEncoder, captions: Sequence[str], *, batch_size: int, device: torch.device | str = "cpu"
) -> Encoded:
    """Embeddings of captions, in their order, on the CPU."""
    parts = []
    with _inference(model):
        for places in _batches(len(captions), batch_size):
            batch = model.tokenizer([captions[place] for place in places])
            parts.append(model.encode_text(batch.to(device)).to("cpu"))
    return concatenate(parts)


def frame_draws(source: ClipSource, places: np.ndarray, config: RetrievalConfig) -> np.ndarray | None:
    """(B, num_frames) draws that choose frames, or None for the middle ones; a function of seed and manifest row."""
    if config.data.frame_sampling == "uniform":
        return None
    count = config.data.num_frames
    return np.stack([draws(count, config.seed, SAMPLE, int(row)) for row in source.rows[places]])


class _inference:
    """No gradients, no dropout; the model's mode comes back afterwards."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model, self._was_training = model, model.training
        self._mode = torch.inference_mode()

    def __enter__(self) -> None:
        self._model.eval()
        self._mode.__enter__()

    def __exit__(self, *error: object) -> None:
        self._mode.__exit__(*error)
        self._model.train(self._was_training)


def _batches(length: int, size: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + size, length)) for start in range(0, length, size))
