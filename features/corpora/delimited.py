"""CSV, TSV and JSONL with the line number of every row, strict about quoting.

A stray quote must not swallow the rest of a file as one field: the csv module runs in strict mode and complains.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from features.corpora.clips import AnnotationError

csv.field_size_limit(1 << 24)  # 16 MiB: MSVD puts all captions of a video into one field


def separator(path: Path) -> str:
    """Tab for .tsv and .txt, else comma."""
    return "\t" if path.suffix.lower() in (".tsv", ".txt") else ","


def rows_without_header(path: Path, num_columns: int) -> Iterator[tuple[str, list[str]]]:
    """("file:line", fields) of every row that is not blank; quoted fields may hold newlines, line ends may be CRLF.

    Raises:
        AnnotationError: wrong number of columns, broken quoting, not UTF-8.
    """
    for origin, fields in _rows(path):
        if len(fields) != num_columns:
            raise AnnotationError(
                f"{origin}: {len(fields)} columns, expected {num_columns} separated by "
                f"{'tabs' if separator(path) == chr(9) else 'commas'}; found {fields!r:.200}"
            )
        yield origin, fields


def rows_with_header(path: Path, required: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """("file:line", {column: text}) of every row that is not blank.

    Raises:
        AnnotationError: a required column is missing, a row has more or fewer fields than the header, not UTF-8.
    """
    rows = _rows(path)
    origin, header = next(rows, (f"{path.name}:1", []))
    header = [name.strip() for name in header]
    missing = [name for name in required if name not in header]
    if missing:
        raise AnnotationError(f"{origin}: header has columns {header}, missing {missing}")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise AnnotationError(f"{origin}: header names {repeated} more than once")
    for origin, fields in rows:
        if len(fields) != len(header):
            raise AnnotationError(
                f"{origin}: {len(fields)} fields, the header has {len(header)}; found {fields!r:.200}"
            )
        yield origin, dict(zip(header, fields))


def json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """("file:line", object) of every line that is not blank.

    Raises:
        AnnotationError: a line is not a JSON object, not UTF-8.
    """
    with path.open(encoding="utf-8-sig", errors="strict") as file:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path.name}:{number}", _object(line, f"{path.name}:{number}")
        except UnicodeDecodeError as error:
            raise AnnotationError(f"{path.name}: after line {number}: not UTF-8 ({error})") from error


def _object(line: str, origin: str) -> dict:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{origin}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise AnnotationError(f"{origin}: expected a JSON object, found {type(value).__name__}")
    return value


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator(path), strict=True)
        first_line = 1
        try:
            for fields in reader:
                if fields and any(map(str.strip, fields)):
                    yield f"{path.name}:{first_line}", fields
                first_line = reader.line_num + 1
        except csv.Error as error:
            raise AnnotationError(f"{path.name}:{first_line}: {error}; check the quotes of this row") from error
        except UnicodeDecodeError as error:
            raise AnnotationError(f"{path.name}: after line {first_line}: not UTF-8 ({error})") from error
