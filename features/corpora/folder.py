"""A plain folder of videos and images, e.g. one's own clips to search."""

import os
from collections.abc import Iterator
from pathlib import Path

from features.corpora.clips import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, AnnotationError, AnnotationRow
from features.corpora.config import FolderCorpusConfig


def folder_rows(config: FolderCorpusConfig) -> Iterator[AnnotationRow]:
    """A row per media file in sorted order; its path is its id. Hidden files and linked folders are passed over."""
    root = config.media_root
    if not root.is_dir():
        raise FileNotFoundError(f"folder corpus: {root} is not a folder")
    for path in sorted(_media_files(root), key=lambda file: file.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix()
        yield AnnotationRow(name, name, _captions_beside(path, name), config.split, name)


def _media_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if not name.startswith(".") and suffix in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS:
                yield Path(folder, name)


def _captions_beside(path: Path, name: str) -> tuple[str, ...]:
    text = path.with_suffix(".txt")
    if not text.is_file():
        return ()
    try:
        return tuple(text.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise AnnotationError(f"caption file of {name}: not UTF-8 ({error})") from error
