"""MSR-VTT in two layouts: split lists with MSR_VTT.json, and one folder with videos.jsonl and captions.csv."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from features.corpora.clips import AnnotationError, AnnotationRow
from features.corpora.config import MSRVTTCorpusConfig, MSRVTTFramesCorpusConfig
from features.corpora.delimited import json_lines, rows_with_header


def msrvtt_frames_rows(config: MSRVTTFramesCorpusConfig) -> Iterator[AnnotationRow]:
    """A row per video of the kept splits, with its captions from the kept sources, in the order of captions.csv."""
    captions: dict[str, list[str]] = defaultdict(list)
    for _, row in rows_with_header(config.root / "captions.csv", ("video_id", "source", "caption")):
        if row["source"] in config.caption_sources:
            captions[row["video_id"]].append(row["caption"])
    for origin, video in json_lines(config.root / "videos.jsonl"):
        missing = [key for key in ("video_id", "file", "split") if not isinstance(video.get(key), str)]
        if missing:
            raise AnnotationError(f"{origin}: {missing} missing or not text")
        if video["split"] in config.splits:
            texts = tuple(captions[video["video_id"]])
            yield AnnotationRow(video["video_id"], video["file"], texts, video["split"], origin)


def msrvtt_rows(config: MSRVTTCorpusConfig) -> Iterator[AnnotationRow]:
    """A row per line of the split lists; captions from the list's own `sentence`, else from the annotation file."""
    annotated = _annotated(config.annotation) if config.annotation else None
    for split, path in config.splits.items():
        for origin, row in rows_with_header(path, ("video_id",)):
            video = row["video_id"].strip()
            if not video:
                raise AnnotationError(f"{origin}: video_id is empty")
            if "sentence" in row:
                captions = (row["sentence"],)
            elif annotated is None:
                raise AnnotationError(f"{path.name} has no column 'sentence': set 'annotation' to MSR_VTT.json")
            else:
                captions = tuple(annotated.get(video, ()))
            yield AnnotationRow(video, f"{video}{config.extension}", captions, split, origin)


def _annotated(path: Path) -> dict[str, list[str]]:
    """Captions by video id from MSR_VTT.json (`annotations`, image_id) or videodatainfo (`sentences`, video_id)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path.name}: not JSON ({error})") from error
    for section, key in (("annotations", "image_id"), ("sentences", "video_id")):
        if isinstance(content, dict) and section in content:
            return _by_video(content[section], section, key, path.name)
    raise AnnotationError(f"{path.name}: neither 'annotations' nor 'sentences' at the top level")


def _by_video(items: list, section: str, key: str, file_name: str) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = defaultdict(list)
    for position, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get(key), str) or not isinstance(item.get("caption"), str):
            raise AnnotationError(f"{file_name}: {section}[{position}] needs the texts {key!r} and 'caption'")
        captions[item[key]].append(item["caption"])
    return captions
