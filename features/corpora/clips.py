"""From annotation rows to clips: one place for missing media, escaping paths, empty captions and duplicate ids."""

from dataclasses import dataclass, field
from pathlib import Path

from storage.ledger import LedgerRow
from storage.manifest import Clip


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
