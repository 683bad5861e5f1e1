"""WebVid: the publisher's CSV (videoid, page_dir, name) or a header-less TSV (caption, page_dir/videoid)."""

from collections.abc import Iterator

from features.corpora.clips import AnnotationError, AnnotationRow
from features.corpora.config import WebVidCorpusConfig
from features.corpora.delimited import rows_with_header, rows_without_header, separator


def webvid_rows(config: WebVidCorpusConfig) -> Iterator[AnnotationRow]:
    """A row per video. Raises AnnotationError with file and line."""
    for split, path in config.annotations.items():
        tabbed = separator(path) == "\t"
        for origin, page, video, caption in _tsv(path) if tabbed else _csv(path):
            if not video:
                raise AnnotationError(f"{origin}: the video id is empty")
            media = config.pattern.format(page_dir=page, videoid=video)
            yield AnnotationRow(video, media, (caption,), split, origin)


def _csv(path) -> Iterator[tuple[str, str, str, str]]:
    for origin, row in rows_with_header(path, ("videoid", "page_dir", "name")):
        yield origin, row["page_dir"].strip(), row["videoid"].strip(), row["name"]


def _tsv(path) -> Iterator[tuple[str, str, str, str]]:
    for origin, (caption, place) in rows_without_header(path, 2):
        page, slash, video = place.strip().rpartition("/")
        if not slash:
            raise AnnotationError(f"{origin}: second column is {place!r}, expected page_dir/videoid")
        yield origin, page, video, caption
