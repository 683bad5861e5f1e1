"""Example queries of an evaluation: what was found, and which regions each word of the caption is aligned with."""

from __future__ import annotations

from typing import Any

import numpy as np

from storage.region_store import RegionBatch
from vlp.alignment import alignment_weights, unit_vectors
from vlp.data import ClipSource
from vlp.encoding import frame_draws
from vlp.metrics import text_to_video_ranks
from vlp.models.dual_encoder import DualEncoder
from vlp.models.tokenizer import CaptionTokenizer
from vlp.order import EXAMPLES, draws
from vlp.ranking import best_first
from vlp.split_ranking import Ranking
from vlp.train_config import RetrievalConfig

SHOWN = ("boxes", "scores", "class_ids", "attribute_ids", "frame_seconds", "image_size_px", "whole_image")


def example_queries(
    model: DualEncoder, source: ClipSource, ranking: Ranking, config: RetrievalConfig
) -> list[dict[str, Any]]:
    """Queries drawn by config.seed, right and wrong answers alike (a pure function of seed and number of captions).

    Returns:
        JSON-like dicts: query_id, caption, clip_id (the right one), rank, top (clip_id, similarity, correct; best first),
        frames (of the right clip: slot, frame = position among the stored frames, seconds, width_px, height_px) and words
        (see `word_regions`).
    """
    chosen = np.argsort(draws(len(ranking.captions), config.seed, EXAMPLES), kind="stable")[: config.num_examples]
    ranks = text_to_video_ranks(ranking.similarity, ranking.video_of_caption, ties=config.ties)
    examples = []
    for query in chosen.tolist():
        place = int(ranking.video_of_caption[query])
        frames = source.choose_frames(np.array([place]), frame_draws(source, np.array([place]), config))[0]
        stored = source.store.read([int(source.rows[place])], arrays=SHOWN)
        scores = ranking.similarity[query]
        examples.append(
            {
                "query_id": ranking.caption_ids[query],
                "caption": ranking.captions[query],
                "clip_id": source.clip_ids[place],
                "rank": float(ranks[query]),
                "top": [
                    {"clip_id": source.clip_ids[v], "similarity": float(scores[v]), "correct": v == place}
                    for v in best_first(scores, config.example_top_k).tolist()
                ],
                "frames": [_frame(stored, slot, frame) for slot, frame in enumerate(frames.tolist()) if frame >= 0],
                "words": word_regions(model, source, ranking, query, frames, stored, config.regions_per_word),
            }
        )
    return examples


def word_regions(
    model: DualEncoder,
    source: ClipSource,
    ranking: Ranking,
    query: int,
    frames: np.ndarray,
    stored: RegionBatch,
    regions_per_word: int,
) -> list[dict[str, Any]]:
    """For each word of a caption the regions of its clip that it attends to (Eq. 10), strongest first.

    A word of several pieces gets the mean of their weights. Words cut off by the model's max_tokens are left out.

    Returns:
        Dicts: word, start, end (characters of the caption) and regions: slot, frame, box (xyxy px of the original frame),
        class_id, attribute_id (-1 = none), score (detection), weight (share of the word's refined attention), cosine
        (of word and region, in [-1, 1]).
    """
    place = int(ranking.video_of_caption[query])
    regions, region_mask = ranking.videos.local[place], ranking.videos.mask[place]
    tokens, token_mask = ranking.texts.local[query], ranking.texts.mask[query]
    _, to_regions = alignment_weights(
        regions,
        tokens,
        region_mask=region_mask,
        word_mask=token_mask,
        attention_temperature=model.config.alignment.attention_temperature,
    )
    cosine = unit_vectors(tokens) @ unit_vectors(regions).T
    words = []
    for word, start, end, pieces in words_of(model.tokenizer, ranking.captions[query]):
        weights = to_regions[pieces].mean(dim=0)
        order = [n for n in best_first(weights.numpy(), regions_per_word).tolist() if weights[n] > 0]
        share = weights / weights.sum()
        aligned = [
            {
                **_region(stored, frames, n // source.max_regions, n % source.max_regions),
                "weight": share[n].item(),
                "cosine": cosine[pieces, n].mean().item(),
            }
            for n in order
        ]
        words.append({"word": word, "start": start, "end": end, "regions": aligned})
    return words


def words_of(tokenizer: CaptionTokenizer, caption: str) -> list[tuple[str, int, int, list[int]]]:
    """Whole words of a caption: text, first and last + 1 character, and which local slots of `encode_text` they are."""
    encoded = tokenizer.tokenizer(
        caption, truncation=True, max_length=tokenizer.max_tokens, return_offsets_mapping=True
    )
    found: dict[int, tuple[int, int, list[int]]] = {}
    for token, (word, (start, end)) in enumerate(zip(encoded.word_ids(), encoded["offset_mapping"], strict=True)):
        if word is not None:
            first, _, pieces = found.get(word, (start, end, []))
            found[word] = (first, end, [*pieces, token - 1])  # local slots start after [CLS]
    return [(caption[start:end], start, end, pieces) for start, end, pieces in found.values()]


def _frame(stored: RegionBatch, slot: int, frame: int) -> dict[str, Any]:
    width, height = stored.image_size_px[0, frame].tolist()
    seconds = float(stored.frame_seconds[0, frame])
    return {"slot": slot, "frame": frame, "seconds": seconds, "width_px": width, "height_px": height}


def _region(stored: RegionBatch, frames: np.ndarray, slot: int, region: int) -> dict[str, Any]:
    at = (0, int(frames[slot]), region)
    return {
        "slot": slot,
        "frame": int(frames[slot]),
        "box": [round(float(value), 2) for value in stored.boxes[at]],
        "class_id": int(stored.class_ids[at]),
        "attribute_id": int(stored.attribute_ids[at]),
        "score": float(stored.scores[at]),
        "whole_image": bool(stored.whole_image[at[:2]]),
    }
