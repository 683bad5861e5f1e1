"""Frame store: which frames of each clip were chosen, and those frames as JPEG bytes.

    parts/000003/plan.parquet      a row per usable clip: indices, times, sizes, reader, crc32 of each JPEG
    parts/000003/frames.parquet    the same rows: JPEG bytes

The plan is the artifact that the regions' fingerprint rests on; the frames are a cache of decoded pixels. Clips that
failed have no row here, their reason is in the part's ledger.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.absent_rows import absent_row_error, describe_row
from storage.commits import part_label
from storage.durable import digest_file, naming_disk_full
from storage.errors import DamagedStoreError
from storage.jpeg import jpeg_size_px
from storage.shards import PartSet

_ROWS_PER_GROUP = 16  # clips; a random read decodes one group, about 16 clips x 8 frames x 30 KB = 4 MB


def _list_of(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False))


PLAN_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("frame_indices", _list_of(pa.int64()), nullable=False),
        pa.field("frame_seconds", _list_of(pa.float64()), nullable=False),
        pa.field("num_source_frames", pa.int64(), nullable=False),
        pa.field("reader", pa.string(), nullable=False),
        pa.field("width_px", pa.int32(), nullable=False),
        pa.field("height_px", pa.int32(), nullable=False),
        pa.field("original_width_px", pa.int32(), nullable=False),
        pa.field("original_height_px", pa.int32(), nullable=False),
        pa.field("jpeg_crc32", _list_of(pa.uint32()), nullable=False),
    ]
)
FRAMES_SCHEMA = pa.schema(
    [pa.field("row", pa.int64(), nullable=False), pa.field("jpegs", _list_of(pa.binary()), nullable=False)]
)


@dataclass(frozen=True)
class FrameRow:
    """The chosen frames of one clip.

    Args:
        row: manifest row.
        clip_id: as in the manifest.
        frame_indices: index of each frame in its source, presentation order.
        frame_seconds: presentation time of each frame in seconds.
        jpegs: one JPEG per frame, all of one size.
        original_size_px: (width, height) of the source frames; boxes refer to these pixels.
        reader: what decoded it, such as "decord" or "pyav".
        num_source_frames: frames in the source; 1 for an image.
        size_px: (width, height) of the stored frames; taken from the JPEGs when None.
    """

    row: int
    clip_id: str
    frame_indices: list[int]
    frame_seconds: list[float]
    jpegs: list[bytes]
    original_size_px: tuple[int, int]
    reader: str
    num_source_frames: int
    size_px: tuple[int, int] | None = None


class FrameStoreWriter:
    """Writes one part; rows in ascending order, failed clips left out.

    Args:
        staging: empty folder from `PartSet.staging`.
    """

    def __init__(self, staging: Path | str) -> None:
        self._folder = Path(staging)
        self._plan: list[dict] = []
        self._pending: list[dict] = []
        # Dictionary pages and compression would only cost time on JPEG bytes.
        self._frames = pq.ParquetWriter(
            self._folder / "frames.parquet",
            FRAMES_SCHEMA,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )

    def add(self, frame_row: FrameRow) -> None:
        """Append a clip.

        Raises:
            ValueError: rows out of order, no frames, lists of unequal length, or JPEGs that are broken or differ in size.
            DiskFullError: no room.
        """
        width, height = _checked_size(frame_row, self._plan[-1]["row"] if self._plan else -1)
        self._plan.append(
            {
                "row": frame_row.row,
                "clip_id": frame_row.clip_id,
                "frame_indices": list(frame_row.frame_indices),
                "frame_seconds": list(frame_row.frame_seconds),
                "num_source_frames": frame_row.num_source_frames,
                "reader": frame_row.reader,
                "width_px": width,
                "height_px": height,
                "original_width_px": frame_row.original_size_px[0],
                "original_height_px": frame_row.original_size_px[1],
                "jpeg_crc32": [zlib.crc32(jpeg) for jpeg in frame_row.jpegs],
            }
        )
        self._pending.append({"row": frame_row.row, "jpegs": list(frame_row.jpegs)})
        if len(self._pending) == _ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Finish both files; the part may be committed after this."""
        if self._pending:
            self._flush()
        with naming_disk_full(f"frames of {part_label(self._folder)}"):
            self._frames.close()
            pq.write_table(
                pa.Table.from_pylist(self._plan, schema=PLAN_SCHEMA), self._folder / "plan.parquet", compression="zstd"
            )

    def _flush(self) -> None:
        with naming_disk_full(f"frames of {part_label(self._folder)}"):
            self._frames.write_table(pa.Table.from_pylist(self._pending, schema=FRAMES_SCHEMA))
        self._pending = []


class FrameStore:
    """Reads a frame store.

    Args:
        directory: the artifact's folder.
        fingerprint: the artifact's full fingerprint; parts made by another recipe are refused. None takes the store's.
    Raises:
        MissingRowError: nothing was ever committed there.
        FingerprintMismatchError: made by another recipe.
        DamagedStoreError: a committed file is missing or has another size; names the part and the file.
    """

    def __init__(self, directory: Path | str, fingerprint: str | None = None) -> None:
        self._parts = PartSet.open(directory, fingerprint)
        self._parts.check_all()
        self._open: tuple[int, _FramePart] | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the manifest, usable or not."""
        return self._parts.plan.num_rows

    def read(self, row: int) -> FrameRow:
        """Frames of one clip. Neighbouring rows are cheapest in ascending order.

        Raises:
            IndexError: no such row in the manifest.
            MissingRowError: the row was never written.
            FailedRowError: sampling the clip failed; names the clip and the reason.
            DamagedStoreError: bytes differ from what was written; names the part and the clip.
        """
        part = self._part(self._parts.plan.shard_of(row))
        if row not in part.position:
            raise absent_row_error(self._parts, row)
        return part.read(row)

    def rows(self) -> Iterator[FrameRow]:
        """Every usable row in order, part by part."""
        for shard in range(self._parts.plan.num_shards):
            part = self._part(shard)
            for row in part.position:
                yield part.read(row)

    def plan(self) -> pa.Table:
        """The whole sampling plan (PLAN_SCHEMA), without frames."""
        shards = range(self._parts.plan.num_shards)
        return pa.concat_tables([PLAN_SCHEMA.empty_table(), *(self._part(shard).plan for shard in shards)])

    def _part(self, shard: int) -> "_FramePart":
        if self._open is None or self._open[0] != shard:
            self._open = (shard, _FramePart(self._parts, shard))
        return self._open[1]


class _FramePart:
    """One opened part: its plan in memory, its frames read a row group at a time."""

    def __init__(self, parts: PartSet, shard: int) -> None:
        name = part_label(parts.part(shard))
        self._parts = parts
        folder, record = parts.part(shard), parts.record(shard)
        if not {"plan.parquet", "frames.parquet"} <= record.files.keys():
            raise DamagedStoreError(f"{name}: holds {', '.join(record.files)}; this is no frame store")
        if digest_file(folder / "plan.parquet") != record.files["plan.parquet"]["digest"]:
            raise DamagedStoreError(f"{name}: plan.parquet differs from its commit record; {_REMAKE}")
        try:
            self.plan = pq.read_table(folder / "plan.parquet", memory_map=False)
            self._frames = pq.ParquetFile(folder / "frames.parquet", memory_map=False)
        except (pa.ArrowException, OSError) as error:
            raise DamagedStoreError(f"{name}: not readable as Parquet ({error}); {_REMAKE}") from error
        self.position = {row: index for index, row in enumerate(self.plan["row"].to_pylist())}
        self._group: tuple[int, pa.Table] | None = None

    def read(self, row: int) -> FrameRow:
        index = self.position[row]
        values = self.plan.slice(index, 1).to_pylist()[0]
        jpegs = self._jpegs(index, values)
        return FrameRow(
            row=row,
            clip_id=values["clip_id"],
            frame_indices=values["frame_indices"],
            frame_seconds=values["frame_seconds"],
            jpegs=jpegs,
            original_size_px=(values["original_width_px"], values["original_height_px"]),
            reader=values["reader"],
            num_source_frames=values["num_source_frames"],
            size_px=(values["width_px"], values["height_px"]),
        )

    def _jpegs(self, index: int, values: dict) -> list[bytes]:
        group, offset = divmod(index, _ROWS_PER_GROUP)
        try:
            if self._group is None or self._group[0] != group:
                self._group = (group, self._frames.read_row_group(group))
            stored = self._group[1].slice(offset, 1).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(values, f"cannot be read ({error})") from error
        jpegs = stored[0]["jpegs"] if stored and stored[0]["row"] == values["row"] else []
        if [zlib.crc32(jpeg) for jpeg in jpegs] != values["jpeg_crc32"]:
            raise self._damaged(values, "differ from what was written (crc32)")
        return jpegs

    def _damaged(self, values: dict, problem: str) -> DamagedStoreError:
        return DamagedStoreError(f"{describe_row(self._parts, values['row'])}: frames {problem}; {_REMAKE}")


_REMAKE = "delete the file and run the stage again, it remakes this part"


def _checked_size(frame_row: FrameRow, previous_row: int) -> tuple[int, int]:
    """(width, height) of the stored frames after checking the row."""
    name = f"clip {frame_row.clip_id!r} (row {frame_row.row})"
    if frame_row.row <= previous_row:
        raise ValueError(f"{name}: written after row {previous_row}; rows of a part must ascend")
    lengths = {len(frame_row.frame_indices), len(frame_row.frame_seconds), len(frame_row.jpegs)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"{name}: {len(frame_row.frame_indices)} indices, {len(frame_row.frame_seconds)} times and "
            f"{len(frame_row.jpegs)} JPEGs; all must be one number, at least 1 (a clip without frames is a failed clip)"
        )
    try:
        sizes = {jpeg_size_px(jpeg) for jpeg in frame_row.jpegs}
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if len(sizes) != 1 or (frame_row.size_px is not None and sizes != {tuple(frame_row.size_px)}):
        raise ValueError(f"{name}: frames of sizes {sorted(sizes)} px; the frames of a clip must be of one size")
    return sizes.pop()
