"""A CSV, TSV or JSONL of one's own: media|file|path, caption(s), optional clip_id, split, start and end in seconds."""

import json
import math
from collections.abc import Iterator

from features.corpora.clips import AnnotationError, AnnotationRow
from features.corpora.config import TableCorpusConfig
from features.corpora.delimited import json_lines, rows_with_header

MEDIA_COLUMNS = ("media", "file", "path")


def table_rows(config: TableCorpusConfig) -> Iterator[AnnotationRow]:
    """A row per line; several lines of one clip are several captions. Raises AnnotationError with file and line."""
    path = config.annotations
    rows = json_lines(path) if path.suffix.lower() in (".jsonl", ".ndjson") else rows_with_header(path, ())
    for origin, row in rows:
        media = next((row[column] for column in MEDIA_COLUMNS if row.get(column)), None)
        if not isinstance(media, str):
            raise AnnotationError(f"{origin}: no media path; one of the columns {MEDIA_COLUMNS} must hold it")
        start, end = _seconds(row, "start", origin), _seconds(row, "end", origin)
        if end is not None and end <= (start or 0.0):
            raise AnnotationError(f"{origin}: the clip ends at {end} s, not after its start at {start or 0.0} s")
        window = "" if start is None and end is None else f"#{start or 0.0:g}-{'' if end is None else format(end, 'g')}"
        clip_id = _text(row, "clip_id", origin) or media + window
        split = _text(row, "split", origin) or config.split
        yield AnnotationRow(clip_id, media, _captions(row, origin), split, origin, start, end)


def _text(row: dict, column: str, origin: str) -> str:
    value = row.get(column)
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise AnnotationError(f"{origin}: {column} must be text, found {value!r:.100}")


def _seconds(row: dict, column: str, origin: str) -> float | None:
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise AnnotationError(f"{origin}: {column} must be seconds >= 0, found {value!r:.100}")
    return seconds


def _captions(row: dict, origin: str) -> tuple[str, ...]:
    """From `captions` (a list, or its JSON text in a CSV) and `caption`."""
    found = []
    for column in ("captions", "caption"):
        value = row.get(column)
        if isinstance(value, str) and column == "captions" and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise AnnotationError(f"{origin}: {column} looks like a JSON list but is none ({error})") from error
        values = value if isinstance(value, list) else [value]
        for text in values:
            if text is not None and not isinstance(text, str):
                raise AnnotationError(f"{origin}: {column} must be text or a list of texts, found {text!r:.100}")
            found.append(text or "")
    return tuple(found)
