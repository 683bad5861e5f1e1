"""From annotation rows to clips: one place for missing media, escaping paths, empty captions and duplicate ids."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from storage.ledger import LedgerRow, Reason
from storage.manifest import Clip

STAGE = "corpora"
IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".ppm"})
VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".mpg", ".mpeg", ".ts", ".m2ts", ".3gp", ".ogv"}
    | {".gif"}
)


class AnnotationError(ValueError):
    """An annotation file that does not follow its format; the message names file and line."""


class DuplicateClipError(ValueError):
    """Two annotation rows claim one clip id but are not two captions of one clip; the message names both lines."""


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """One annotated clip or one of its captions, as the file says it.

    `media` is the path below the media root as written. `origin` is "file:line", for messages.
    """

    clip_id: str
    media: str
    captions: tuple[str, ...]
    split: str
    origin: str
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True)
class CorpusBuild:
    """What an annotation format gave.

    clips: manifest rows in order, good ones only. ledger: what was left out and why (row -1: not in the manifest).
    media_root: folder that `Clip.media` is relative to. boxes: boxes.parquet where the corpus has annotated boxes.
    """

    clips: list[Clip]
    ledger: list[LedgerRow]
    media_root: Path
    boxes: Path | None = None
    facts: dict = field(default_factory=dict)


@dataclass(frozen=True)
class MediaFile:
    """A file below the media root: its clean relative posix path and size, or the reason why it cannot be used."""

    path: str
    num_bytes: int
    reason: Reason | None = None
    message: str = ""


class MediaRoot:
    """Looks up media below one folder and refuses every path that leaves it: by `..`, absolute, or via a link."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise FileNotFoundError(
                f"media root {root}: no such folder; set media_root to the folder that holds the media"
            )
        self._root = os.path.realpath(root)
        self._folders: dict[str, bool] = {}  # folder as joined -> whether it really lies inside

    def find(self, media: str) -> MediaFile:
        """Never raises for a bad path: the reason says what is wrong."""
        clean = posixpath.normpath(media) if media else ""
        if not media or "\0" in media or clean == ".":
            return MediaFile(media, -1, Reason.MISSING, f"media path {media!r} is empty or not a path")
        if posixpath.isabs(media) or clean.split("/")[0] == "..":
            return self._outside(media, "give a path relative to the media root, without '..'")
        full = f"{self._root}/{clean}"
        try:
            if not self._inside(full):
                return self._outside(media, "a symbolic link on the way points elsewhere")
            if not os.path.isfile(full):
                return MediaFile(clean, -1, Reason.MISSING, f"no file {clean!r} below the media root")
            return MediaFile(clean, os.stat(full).st_size)
        except OSError as error:
            return MediaFile(clean, -1, Reason.MISSING, f"{clean!r} cannot be looked up: {error.strerror}")

    def _outside(self, media: str, hint: str) -> MediaFile:
        return MediaFile(media, -1, Reason.OUTSIDE_ROOT, f"media path {media!r} leaves the media root: {hint}")

    def _inside(self, full: str) -> bool:
        if os.path.islink(full):
            return self._contains(os.path.realpath(full))
        folder = os.path.dirname(full)
        if folder not in self._folders:
            self._folders[folder] = self._contains(os.path.realpath(folder))
        return self._folders[folder]

    def _contains(self, real: str) -> bool:
        return real == self._root or real.startswith(self._root.rstrip("/") + "/")


def media_kind(path: str) -> str:
    """ "image" or "video", by the extension; what is no known image is taken for a video."""
    return "image" if PurePosixPath(path).suffix.lower() in IMAGE_EXTENSIONS else "video"


def clean_caption(text: str) -> str:
    """The caption on one line, single spaces."""
    return " ".join(text.split())


def collect(rows: Iterable[AnnotationRow], root: Path, *, source: str, require_captions: bool = True) -> CorpusBuild:
    """Clips in order of first appearance. Rows of one id that agree on media, window and split add captions.

    Raises:
        DuplicateClipError: rows of one id that disagree.
        AnnotationError: a window that no clip can have.
    """
    folder = MediaRoot(root)
    clips, ledger = [], []
    for row in merged(rows):
        media = folder.find(row.media)
        captions = tuple(dict.fromkeys(filter(None, map(clean_caption, row.captions))))
        reason, message = media.reason, media.message
        if reason is None and require_captions and not captions:
            reason, message = Reason.EMPTY_CAPTION, "no caption, or only white space"
        if reason is not None:
            ledger.append(LedgerRow(row.clip_id, -1, STAGE, "excluded", reason, f"{row.origin}: {message}"))
            continue
        clips.append(_clip(row, media, captions, source))
    return CorpusBuild(clips=clips, ledger=ledger, media_root=root, facts=_facts(clips, ledger))


def _clip(row: AnnotationRow, media: MediaFile, captions: tuple[str, ...], source: str) -> Clip:
    try:
        return Clip(
            clip_id=row.clip_id,
            media=media.path,
            kind=media_kind(media.path),
            captions=captions,
            split=row.split,
            start_seconds=row.start_seconds,
            end_seconds=row.end_seconds,
            source=source,
            media_bytes=media.num_bytes,
        )
    except ValueError as error:
        raise AnnotationError(f"{row.origin}: {error}") from error


def _facts(clips: list[Clip], ledger: list[LedgerRow]) -> dict:
    return {
        "num_captions": sum(len(clip.captions) for clip in clips),
        "clips_by_split": dict(sorted(Counter(clip.split for clip in clips).items())),
        "left_out_by_reason": dict(sorted(Counter(str(row.reason) for row in ledger).items())),
    }


def merged(rows: Iterable[AnnotationRow]) -> Iterator[AnnotationRow]:
    """One row per clip id, captions of its rows joined, in order of first appearance.

    Raises:
        DuplicateClipError: two rows of one id differ in media, window or split.
    """
    first: dict[str, AnnotationRow] = {}
    further: dict[str, list[str]] = {}  # captions of repeated ids only: WebVid has millions of rows and none
    for row in rows:
        known = first.setdefault(row.clip_id, row)
        if known is row:
            continue
        if _place(known) != _place(row):
            raise DuplicateClipError(
                f"clip id {row.clip_id!r} is at {known.origin} ({_words(known)}) and at {row.origin} ({_words(row)}); "
                "rows of one id must be captions of one clip: give the clips ids of their own or remove one"
            )
        further.setdefault(row.clip_id, []).extend(row.captions)
    for clip_id, row in first.items():
        yield replace(row, captions=(*row.captions, *further[clip_id])) if clip_id in further else row


def _place(row: AnnotationRow) -> tuple:
    return row.media, row.start_seconds, row.end_seconds, row.split


def _words(row: AnnotationRow) -> str:
    window = (
        "" if row.start_seconds is None and row.end_seconds is None else f" {row.start_seconds}-{row.end_seconds} s"
    )
    return f"{row.media}{window}, split {row.split}"
