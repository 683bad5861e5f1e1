"""The corpora by kind: build one, say what it is made of, find its media."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av

from features.corpora.cc3m import cc3m_rows
from features.corpora.clips import AnnotationRow, CorpusBuild, MediaRoot, collect, merged
from features.corpora.config import (
    CC3MCorpusConfig,
    CorpusConfig,
    DemoCorpusConfig,
    FolderCorpusConfig,
    MSRVTTCorpusConfig,
    MSRVTTFramesCorpusConfig,
    TableCorpusConfig,
    WebVidCorpusConfig,
)
from features.corpora.demo import build_demo_corpus
from features.corpora.folder import folder_rows
from features.corpora.msrvtt import msrvtt_frames_rows, msrvtt_rows
from features.corpora.table import table_rows
from features.corpora.webvid import webvid_rows
from storage.fingerprint import digest_file, identity

ROWS: dict[str, Callable[..., Iterator[AnnotationRow]]] = {
    "webvid": webvid_rows,
    "cc3m": cc3m_rows,
    "msrvtt_frames": msrvtt_frames_rows,
    "msrvtt": msrvtt_rows,
    "folder": folder_rows,
    "table": table_rows,
}


def build_corpus(config: CorpusConfig, directory: Path) -> CorpusBuild:
    """Clips and what was left out. The demo writes its media, boxes and vocabulary below `directory`, others nothing.

    Raises:
        FileNotFoundError: an annotation file or the media root is absent.
        AnnotationError, DuplicateClipError: a malformed row, or one id for two clips; file and line are named.
    """
    if isinstance(config, DemoCorpusConfig):
        return build_demo_corpus(config, directory)
    _require_files(config)
    require_captions = getattr(config, "require_captions", True)
    root = media_root(config, directory)
    return collect(ROWS[config.kind](config), root, source=config.kind, require_captions=require_captions)


def corpus_identity(config: CorpusConfig) -> dict:
    """What makes the corpus what it is: config values, digests of annotation files, and path and size of the media.

    Where the files lie is placement: a moved corpus keeps its identity; an edited caption or a replaced clip does not.

    Raises:
        As build_corpus.
    """
    if isinstance(config, DemoCorpusConfig):
        return {"config": identity(config), "encoder": f"av {av.__version__}"}  # x264 decides the bytes
    _require_files(config)
    digests = {name: digest_file(path) for name, path in sorted(_annotation_files(config).items())}
    return {"config": identity(config), "annotations": digests, "media": _media_digest(config)}


def media_root(config: CorpusConfig, corpus_directory: Path) -> Path:
    """Folder that `Clip.media` is relative to; the demo's lies in its own artifact."""
    if isinstance(config, DemoCorpusConfig):
        return Path(corpus_directory) / "media"
    if isinstance(config, MSRVTTFramesCorpusConfig):
        return config.root
    if isinstance(config, TableCorpusConfig):
        return config.media_root or config.annotations.parent
    return config.media_root


def _annotation_files(config: CorpusConfig) -> dict[str, Path]:
    """Files whose content is identity, by a name that does not depend on where they lie."""
    match config:
        case WebVidCorpusConfig() | CC3MCorpusConfig():
            return dict(config.annotations)
        case MSRVTTFramesCorpusConfig():
            return {name: config.root / name for name in ("videos.jsonl", "captions.csv")}
        case MSRVTTCorpusConfig():
            return {**config.splits, **({"annotation": config.annotation} if config.annotation else {})}
        case TableCorpusConfig():
            return {"table": config.annotations}
        case FolderCorpusConfig():
            return {}
    raise AssertionError(f"no annotation files known for corpus kind {config.kind!r}")


def _require_files(config: CorpusConfig) -> None:
    for name, path in _annotation_files(config).items():
        if not path.is_file():
            raise FileNotFoundError(f"{config.kind} corpus: annotation file {name!r} is not at {path}")


def _media_digest(config: CorpusConfig) -> str:
    """sha256 over path, size and, for a folder, captions of every clip the annotations name, in order."""
    folder = MediaRoot(media_root(config, Path()))
    digest = hashlib.sha256()
    for row in merged(ROWS[config.kind](config)):
        media = folder.find(row.media)
        captions = row.captions if isinstance(config, FolderCorpusConfig) else ()
        digest.update(repr((media.path, media.num_bytes, str(media.reason), captions)).encode("utf-8", "surrogatepass"))
    return f"sha256:{digest.hexdigest()}"
