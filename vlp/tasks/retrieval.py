"""Text-to-video and video-to-text retrieval on one split, and embeddings to search one's own clips with.

Output of an evaluation: `metrics.json`, `rankings.parquet` (a row per query and direction), `examples.json` (queries with
answers and alignment) and what a search needs (`embeddings.safetensors`, `clips.parquet`, `model/`). A clip of the split
without regions or caption is neither query nor answer; it is counted and named in metrics.json.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from storage.durable import replace_file
from vlp.data import ClipSource, SourceSpec
from vlp.determinism import deterministic
from vlp.metrics import text_to_video_ranks, video_to_text_ranks
from vlp.models.dual_encoder import DualEncoder
from vlp.ranking import best_first
from vlp.split_ranking import Ranking, rank_source
from vlp.tasks.examples import example_queries
from vlp.tasks.search import embed_corpus, save_searchable, search
from vlp.train_config import RetrievalConfig

__all__ = ["Ranking", "embed_corpus", "evaluate_retrieval", "rank_source", "search"]

METRICS, RANKINGS, EXAMPLES = "metrics.json", "rankings.parquet", "examples.json"
RANKINGS_SCHEMA = pa.schema(
    [
        pa.field("direction", pa.string(), nullable=False),  # "t2v" or "v2t"
        pa.field("query_id", pa.string(), nullable=False),  # "<clip id>#<caption>" or "<clip id>"
        pa.field("correct_ids", pa.list_(pa.string()), nullable=False),
        pa.field("rank", pa.float64(), nullable=False),  # 1 is best; of the best of the correct ids
        pa.field("top_ids", pa.list_(pa.string()), nullable=False),
        pa.field("top_scores", pa.list_(pa.float32()), nullable=False),
    ]
)


def evaluate_retrieval(
    model: Path | str,
    manifest: Path | str,
    regions: Path | str,
    *,
    split: str,
    config: RetrievalConfig,
    output: Path | str,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Evaluate a model folder on one split and write everything about it into `output`.

    Args:
        model: model folder; its temporal embedding is resized to config.data.num_frames.
        manifest: manifest file.
        regions: folder of the region store artifact.
        split: split of the manifest.
        config: ranking.
        output: directory, made if absent.
        device: torch device of the encoders and comparisons.
    Returns:
        What metrics.json holds.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with deterministic(config.num_threads, device):
        spec = SourceSpec(name=f"split {split}", manifest=manifest, regions=regions, split=split)
        source = ClipSource.open(spec, config.data, with_captions=True)
        encoder = DualEncoder.from_pretrained(model, num_frames=config.data.num_frames).to(device)
        source.require_feature_dim(encoder.config.video.feature_dim)
        ranking = rank_source(encoder, source, config, device=device)
        examples = example_queries(encoder, source, ranking, config)
    save_searchable(output, Path(model), source, ranking.videos)
    _write_rankings(output / RANKINGS, source, ranking, config)
    _write_json(output / EXAMPLES, examples)
    metrics = _metrics(source, ranking, config, encoder)
    _write_json(output / METRICS, metrics)
    return metrics


def _metrics(source: ClipSource, ranking: Ranking, config: RetrievalConfig, model: DualEncoder) -> dict[str, Any]:
    reasons = Counter(exclusion.reason for exclusion in source.excluded)
    alignment = model.config.alignment
    return {
        **ranking.metrics,
        "split": source.spec.split,
        "num_clips": len(source),
        "num_captions": len(ranking.captions),
        "num_excluded": len(source.excluded),
        "excluded": dict(sorted(reasons.items())),
        "excluded_clips": {exclusion.clip_id: exclusion.reason for exclusion in source.excluded},
        "num_frames": config.data.num_frames,
        "max_regions": source.max_regions,
        "captions_per_clip": config.captions_per_clip,
        "ties": config.ties,
        "use_local": alignment.use_local,
        "attention_temperature": alignment.attention_temperature,
    }


def _write_rankings(path: Path, source: ClipSource, ranking: Ranking, config: RetrievalConfig) -> None:
    clip_ids, owner, scores = source.clip_ids, ranking.video_of_caption, ranking.similarity
    rows = []
    ranks = text_to_video_ranks(scores, owner, ties=config.ties)
    for query, best in enumerate(best_first(scores, config.top_k)):
        correct, top = [clip_ids[owner[query]]], [clip_ids[v] for v in best]
        rows.append(("t2v", ranking.caption_ids[query], correct, ranks[query], top, scores[query, best]))
    ranks = video_to_text_ranks(scores, owner, ties=config.ties)
    for query, best in enumerate(best_first(scores.T, config.top_k)):
        correct = [ranking.caption_ids[t] for t in np.flatnonzero(owner == query)]
        top = [ranking.caption_ids[t] for t in best]
        rows.append(("v2t", clip_ids[query], correct, ranks[query], top, scores[best, query]))
    columns = [pa.array(values, field.type) for values, field in zip(zip(*rows), RANKINGS_SCHEMA)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=RANKINGS_SCHEMA), sink, compression="zstd")
    replace_file(path, sink.getvalue().to_pybytes())


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    replace_file(path, (text + "\n").encode("utf-8"))
