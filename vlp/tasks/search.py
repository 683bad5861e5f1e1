"""Embeddings of clips that can be searched with text, in a folder that needs nothing else.

`embeddings.safetensors` (global_ (V, d), local (V, N, d), mask (V, N)), `clips.parquet` (a row per embedding) and `model/`
(the encoder they came from, linked where the file system can, so that the index survives its training run).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from storage.durable import remove_tree, replace_file, temporary_name
from storage.region_store import RegionStore
from vlp.batches import Encoded
from vlp.data import ClipSource, SourceSpec
from vlp.determinism import deterministic
from vlp.encoding import encode_captions, encode_clips
from vlp.models.dual_encoder import DualEncoder
from vlp.ranking import best_first, similarity_matrix
from vlp.train_config import RetrievalConfig

EMBEDDINGS, CLIPS, MODEL = "embeddings.safetensors", "clips.parquet", "model"


def embed_corpus(
    model: Path | str,
    manifest: Path | str,
    regions: Path | str,
    *,
    output: Path | str,
    config: RetrievalConfig | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Embed every usable clip of a corpus, all splits, captions or not, so that `search` can find them.

    Args:
        model: model folder.
        manifest: manifest file.
        regions: folder of the region store artifact.
        output: directory, made if absent.
        config: frames, regions and batch size; None: as evaluation, on as many of its frames as the store holds.
        device: torch device.
    Returns:
        {"num_clips", "num_excluded"}.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    config = config or _fitting_config(regions)
    with deterministic(config.num_threads, device):
        spec = SourceSpec(name="corpus", manifest=manifest, regions=regions, split=None)
        source = ClipSource.open(spec, config.data, with_captions=False)
        encoder = DualEncoder.from_pretrained(model, num_frames=config.data.num_frames).to(device)
        source.require_feature_dim(encoder.config.video.feature_dim)
        videos = encode_clips(encoder, source, config, device=device)
    save_searchable(output, Path(model), source, videos)
    return {"num_clips": len(source), "num_excluded": len(source.excluded)}


def save_searchable(output: Path, model: Path, source: ClipSource, videos: Encoded) -> None:
    """Write embeddings, the clips they belong to and the model into `output`."""
    tensors = {"global_": videos.global_, "local": videos.local, "mask": videos.mask}
    replace_file(output / EMBEDDINGS, save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}))
    clips = [source.clip(place) for place in range(len(source))]
    columns = {name: [getattr(clip, name) for clip in clips] for name in ("clip_id", "media", "split", "source")}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    replace_file(output / CLIPS, sink.getvalue().to_pybytes())
    _link_tree(model, output / MODEL)


def search(
    folder: Path | str, query: str, *, top_k: int = 10, device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """The clips most similar to a text, best first.

    Args:
        folder: output of `embed_corpus` or `evaluate_retrieval`.
        query: text with at least one word.
        top_k: most clips to return.
        device: torch device.
    Returns:
        Dicts with clip_id, similarity (in [-3, 3], or [-1, 1] for a model without local alignment), media, split, source.
    Raises:
        ValueError: no word in the query. FileNotFoundError: not a searchable folder.
    """
    folder = Path(folder)
    absent = [name for name in (EMBEDDINGS, CLIPS, MODEL) if not (folder / name).exists()]
    if absent:
        raise FileNotFoundError(f"{folder} cannot be searched: {', '.join(absent)} missing")
    clips = pq.read_table(folder / CLIPS).to_pylist()
    videos = Encoded(**load_file(folder / EMBEDDINGS))
    model = DualEncoder.from_pretrained(folder / MODEL).to(device)
    texts = encode_captions(model, [query], batch_size=1, device=device)
    scores = similarity_matrix(videos, texts, model.config.alignment, device=device)[0]
    return [{**clips[place], "similarity": float(scores[place])} for place in best_first(scores, top_k)]


def _fitting_config(regions: Path | str) -> RetrievalConfig:
    config = RetrievalConfig()
    frames = min(config.data.num_frames, RegionStore(regions).spec.num_frames)
    return config.model_copy(update={"data": config.data.model_copy(update={"num_frames": frames})})


def _link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links, or by bytes where links do not reach; replaces what was there."""
    temporary = temporary_name(target)
    shutil.copytree(source, temporary, copy_function=_link_or_copy)
    remove_tree(target)
    os.replace(temporary, target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
