"""The manifest: one Parquet row per clip, in an order that every store made from it keeps.

Its bytes are a pure function of the clips, so its digest is identity.
"""

import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.durable import digest_file, replace_file
from storage.errors import DamagedStoreError

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("media", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("captions", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("start_seconds", pa.float64()),
        pa.field("end_seconds", pa.float64()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("media_bytes", pa.int64(), nullable=False),
    ]
)
_REMAKE = "delete the file and run the corpora stage again, it remakes it"
_ROWS_PER_GROUP = 65_536  # rows; fixed, so that the bytes do not depend on the machine


@dataclass(frozen=True)
class Clip:
    """One clip: `[start_seconds, end_seconds)` of a video, or an image.

    Args:
        clip_id: unique in the manifest, not empty.
        media: file relative to the corpus' media root, posix; "" if the clip has no file.
        kind: "video" or "image".
        captions: texts of the clip; may be empty.
        split: such as "train" or "test".
        start_seconds, end_seconds: None = from the start / to the end of the file.
        source: name of the corpus.
        media_bytes: size of the file, -1 if it is missing.
    Raises:
        ValueError: a field breaks these rules; the message names the clip.
    """

    clip_id: str
    media: str
    kind: Literal["video", "image"]
    captions: tuple[str, ...]
    split: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    source: str = ""
    media_bytes: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "captions", tuple(self.captions))
        problem = self._problem()
        if problem:
            raise ValueError(f"clip {self.clip_id!r}: {problem}")

    def _problem(self) -> str | None:
        media = PurePosixPath(self.media)
        start, end = self.start_seconds, self.end_seconds
        if not self.clip_id:
            return "the clip id is empty"
        if media.is_absolute() or ".." in media.parts:
            return f"media {self.media!r} leaves the media root; it must be a relative path without '..'"
        if self.kind not in ("video", "image"):
            return f"kind is {self.kind!r}, allowed are 'video' and 'image'"
        if self.media_bytes < -1:
            return f"media_bytes is {self.media_bytes}, must be a size or -1 for missing"
        if any(value is not None and not (np.isfinite(value) and value >= 0) for value in (start, end)):
            return f"times {start} to {end} s must be finite and not negative"
        if end is not None and end <= (start or 0.0):
            return f"ends at {end} s, not after its start {start or 0.0} s"
        return None


class Manifest:
    """A manifest read into memory. Make one with `Manifest.read` or `Manifest.write`."""

    def __init__(self, table: pa.Table, digest: str) -> None:
        self._table = table
        self.digest = digest

    @classmethod
    def write(cls, path: Path | str, clips: Iterable[Clip]) -> "Manifest":
        """Write clips in the order given, atomically; equal clips give equal bytes.

        Raises:
            ValueError: two clips share an id (both rows are named), or a text is not valid Unicode.
        """
        rows = [{field.name: getattr(clip, field.name) for field in dataclasses.fields(Clip)} for clip in clips]
        _require_unique([row["clip_id"] for row in rows], str(Path(path).name))
        for row in rows:
            row["captions"] = list(row["captions"])
            _require_unicode(row)
        buffer = io.BytesIO()
        pq.write_table(
            pa.Table.from_pylist(rows, schema=SCHEMA), buffer, compression="zstd", row_group_size=_ROWS_PER_GROUP
        )
        replace_file(Path(path), buffer.getvalue(), subject=f"manifest {Path(path).name}")
        return cls.read(path)

    @classmethod
    def read(cls, path: Path | str) -> "Manifest":
        """Raises FileNotFoundError; DamagedStoreError when the file is not a manifest with unique ids."""
        name = Path(path).name
        try:
            table = pq.read_table(path, memory_map=False)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise DamagedStoreError(f"manifest {name}: not readable as Parquet ({error}); {_REMAKE}") from error
        if not table.schema.equals(SCHEMA):
            raise DamagedStoreError(f"manifest {name}: columns are {table.schema.names}, expected {SCHEMA.names}")
        if pc.count_distinct(table["clip_id"]).as_py() != len(table):
            raise DamagedStoreError(f"manifest {name}: clip ids are not unique; {_REMAKE}")
        return cls(table.combine_chunks(), digest_file(path))

    def __len__(self) -> int:
        return self._table.num_rows

    def clip(self, row: int) -> Clip:
        """Clip of a row. Raises IndexError outside [0, len)."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row}: the manifest has rows 0 to {len(self) - 1}")
        return Clip(**self._table.slice(row, 1).to_pylist()[0])

    @cached_property
    def clip_ids(self) -> list[str]:
        """Clip ids in row order."""
        return self._table["clip_id"].to_pylist()

    @property
    def splits(self) -> list[str]:
        """Names of the splits, sorted."""
        return sorted(pc.unique(self._table["split"]).to_pylist())

    def rows_of_split(self, split: str) -> np.ndarray:
        """(n,) int64 rows of a split, ascending. Raises KeyError naming the splits there are."""
        if split not in self.splits:
            raise KeyError(f"split {split!r}: the manifest has {', '.join(map(repr, self.splits)) or 'no clips'}")
        return np.flatnonzero(pc.equal(self._table["split"], split).to_numpy(zero_copy_only=False)).astype(np.int64)


def _require_unique(clip_ids: list[str], name: str) -> None:
    first: dict[str, int] = {}
    for row, clip_id in enumerate(clip_ids):
        if clip_id in first:
            raise ValueError(
                f"manifest {name}: clip id {clip_id!r} is in rows {first[clip_id]} and {row}; ids must be unique"
            )
        first[clip_id] = row


def _require_unicode(row: dict) -> None:
    for text in (row["clip_id"], row["media"], row["split"], row["source"], *row["captions"]):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"clip {row['clip_id']!r}: {text!r} is not valid Unicode ({error.reason})") from error
