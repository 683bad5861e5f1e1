"""The demo corpus: real H.264 clips with captions and boxes, made from a seed in seconds, without data or network."""

import json
import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.corpora.clips import CorpusBuild
from features.corpora.config import DemoCorpusConfig
from features.corpora.demo_captions import caption, shortened
from features.corpora.demo_render import RenderedScene, encode_h264, render
from features.corpora.demo_scenes import DescribedScene, Scene, scenes_of_split
from features.corpora.demo_vocabulary import ATTRIBUTES, RADIUS, SHAPES
from storage.manifest import Clip

CHUNK = 16  # clips per task of a worker
INLINE_BELOW = 100  # clips; starting processes costs more than drawing this many

BOXES_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("frame_index", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.float32()))),
        ("class_ids", pa.list_(pa.int32())),
        ("attribute_ids", pa.list_(pa.list_(pa.int32()))),
    ]
)
BoxRow = dict[str, object]


@dataclass(frozen=True)
class _Job:
    clip_id: str
    file: Path
    scene: Scene
    size_px: int
    num_frames: int
    fps: int


def build_demo_corpus(config: DemoCorpusConfig, directory: Path) -> CorpusBuild:
    """Write media/*.mp4, boxes.parquet and vocabulary.json below `directory`; same config, same bytes.

    boxes.parquet has a row per clip and frame: xyxy px of the visible extent, class ids (shapes) and, per box, several
    attribute ids (colour, texture, size), both counted as in vocabulary.json.

    Raises:
        SceneSearchError: more val or test clips than captions can tell apart.
    """
    media = directory / "media"
    media.mkdir(parents=True, exist_ok=True)
    jobs, captions, splits = [], [], []
    for split, count in (("train", config.num_train), ("val", config.num_val), ("test", config.num_test)):
        for number, item in enumerate(scenes_of_split(config.seed, split, count, config.group_size)):
            clip_id = f"demo{config.seed}-{split}-{number:06d}"
            file = media / f"{split}_{number:06d}.mp4"
            jobs.append(_Job(clip_id, file, item.scene, config.size_px, config.num_frames, config.fps))
            captions.append(_captions(item, split, random.Random(f"captions/{clip_id}")))
            splits.append(split)
    rows = list(_draw_all(jobs, config.workers))
    pq.write_table(pa.Table.from_pylist(rows, schema=BOXES_SCHEMA), directory / "boxes.parquet")
    vocabulary = {"classes": list(SHAPES), "attributes": list(ATTRIBUTES)}
    (directory / "vocabulary.json").write_text(json.dumps(vocabulary, indent=1) + "\n")
    clips = [
        Clip(
            clip_id=job.clip_id,
            media=job.file.name,
            kind="video",
            captions=texts,
            split=split,
            start_seconds=None,
            end_seconds=None,
            source="demo",
            media_bytes=job.file.stat().st_size,
        )
        for job, texts, split in zip(jobs, captions, splits)
    ]
    facts = {"num_clips": len(clips), "num_boxes": sum(len(row["class_ids"]) for row in rows)}
    return CorpusBuild(clips=clips, ledger=[], media_root=media, boxes=directory / "boxes.parquet", facts=facts)


def _captions(item: DescribedScene, split: str, rng: random.Random) -> tuple[str, ...]:
    """One full caption; in "train" up to two more, of which some leave facts out as human captions do."""
    texts = [caption(item.description, rng)]
    if split == "train":
        for _ in range(rng.choice((0, 1, 1, 2, 2))):
            description = shortened(item.description, rng) if rng.random() < 0.5 else item.description
            texts.append(caption(description, rng))
    return tuple(dict.fromkeys(texts))


def _draw_all(jobs: list[_Job], workers: int) -> Iterator[BoxRow]:
    """Draw and encode every job, in order, in processes where that pays."""
    if workers == 1 or len(jobs) < INLINE_BELOW:
        for job in jobs:
            yield from _draw(job)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for rows in pool.map(_draw, jobs, chunksize=CHUNK):
            yield from rows


def _draw(job: _Job) -> list[BoxRow]:
    drawn = render(job.scene, size_px=job.size_px, num_frames=job.num_frames)
    encode_h264(job.file, drawn.frames, job.fps)
    return list(_box_rows(job, drawn))


def _box_rows(job: _Job, drawn: RenderedScene) -> Iterator[BoxRow]:
    class_ids = [SHAPES.index(item.look.shape) for item in job.scene.objects]
    for frame in range(job.num_frames):
        t = frame / max(1, job.num_frames - 1)
        attribute_ids = [_attributes(item.look.colour, item.look.texture, item.radius(t)) for item in job.scene.objects]
        yield {
            "clip_id": job.clip_id,
            "frame_index": frame,
            "boxes": drawn.boxes[frame].tolist(),
            "class_ids": class_ids,
            "attribute_ids": attribute_ids,
        }


def _attributes(colour: str, texture: str, radius: float) -> list[int]:
    """Colour and texture, and the size word that fits at this moment (none between the two ranges while growing)."""
    names = [colour, texture]
    for size, (low, high) in RADIUS.items():
        if low <= radius <= high + 1e-9:
            names.append(size)
    return [ATTRIBUTES.index(name) for name in names]
