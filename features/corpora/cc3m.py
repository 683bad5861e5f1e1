"""CC3M: header-less TSV (caption, index_hash); every row is an image, a clip of one frame."""

from collections.abc import Iterator

from features.corpora.clips import AnnotationError, AnnotationRow
from features.corpora.config import CC3MCorpusConfig
from features.corpora.delimited import rows_without_header


def cc3m_rows(config: CC3MCorpusConfig) -> Iterator[AnnotationRow]:
    """A row per image. Raises AnnotationError with file and line."""
    for split, path in config.annotations.items():
        for origin, (caption, key) in rows_without_header(path, 2):
            index, underscore, digest = key.strip().partition("_")
            if not underscore or not index.isdigit() or not digest:
                raise AnnotationError(f"{origin}: second column is {key!r}, expected index_hash such as 0_1595581236")
            media = config.pattern.format(
                key=key.strip(), index=index, hash=digest, shard=index.zfill(7)[:4], split=split
            )
            yield AnnotationRow(key.strip(), media, (caption,), split, origin)
