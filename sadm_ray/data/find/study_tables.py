"""The tables of a study: rows and their values."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sadm_ray.data.find.catalog import Covariates, Problem
from sadm_ray.errors import DataError
from sadm_ray.storage import Entry, Storage

Row = dict[str, str]
"""The values of a row by column, as text; a missing value has no entry."""

MISSING = frozenset({"", "n/a", "na", "nan"})
EMPTY_FILE = "is empty, or a link to nothing; copy it again from its source"
DELIMITERS = {".csv": ",", ".tsv": "\t"}

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`function` of each item, in order, many at a time: an object store takes tens of milliseconds a request."""

    def apply_to_some(start: int) -> list[Result]:  # several items a task: a task costs more than a disk access
        return [function(item) for item in items[start : start + 8]]

    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(items), 1024):  # a pool queues all that it is given, without a limit
            for results in pool.map(apply_to_some, range(start, min(start + 1024, len(items)), 8)):
                yield from results


@dataclass(frozen=True)
class StudyTable:
    """A table that is being read; its `rows` can be iterated once."""

    file: str
    columns: tuple[str, ...]
    lines: Iterator[tuple[int, Sequence[str | None]]]

    def rows(self, problems: list[Problem], subject: str = "") -> Iterator[tuple[int, Row]]:
        """Rows and their numbers: of text the line, the header being line 1; of Parquet the row, from 1.

        Rows of too many or too few fields are left out and added to `problems`.

        Raises:
            DataError: the rest cannot be read.
        """
        try:
            for number, fields in self.lines:
                if len(fields) != len(self.columns):
                    message = (
                        f"row {number} has {len(fields)} fields where the header has {len(self.columns)}; correct it"
                    )
                    problems.append(Problem(subject, self.file, message))
                    continue
                if any(_swallows_rows(field, self.columns) for field in fields if field):
                    message = f"row {number} ends in a quote that is opened in it or above and swallows rows; remove it"
                    problems.append(Problem(subject, self.file, message))
                    continue
                texts = ((name, (field or "").strip()) for name, field in zip(self.columns, fields, strict=True))
                yield number, {name: text for name, text in texts if name and text.lower() not in MISSING}
        except (OSError, csv.Error, pa.ArrowException) as error:
            raise DataError(f"{self.file}: cannot be read ({first_line(error)}); export the table again") from None

    def named(self, *names: str) -> str | None:
        """The column of the first of these names that exists, in upper or lower case."""
        lower = {column.lower(): column for column in reversed(self.columns)}
        return next((lower[name] for name in names if name in lower), None)


def read_table(storage: Storage, entry: Entry) -> StudyTable:
    """Open a .csv, .tsv or .parquet table.

    Raises:
        DataError: it cannot be read, is empty, is in UTF-16 or separated by another sign, or names a column twice.
    """
    path, file = entry.path, storage.where(entry.path)
    if not entry.size:  # pipes and devices, too, have size 0: reading one might never end
        raise DataError(f"{file}: {EMPTY_FILE}")
    try:
        lines = _parquet(storage, path) if path.lower().endswith(".parquet") else _text(storage.read(path), path, file)
        _, names = next(lines, (0, ()))
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read ({first_line(error)}); check the path or export it again") from None
    columns = tuple((name or "").strip() for name in names)
    separator = next((sign for sign in ";\t," if len(columns) == 1 and sign in columns[0]), None)
    if separator and path[-4:].lower() in DELIMITERS:
        signs = {";": "semicolons", "\t": "tabs", ",": "commas"}
        needed = signs[DELIMITERS[path[-4:].lower()]]
        raise DataError(
            f"{file}: its columns ({columns[0][:100]!r}) are separated by {signs[separator]} where a "
            f"{path[-4:].lower()} has {needed}; export the table again"
        )
    if not any(columns):
        raise DataError(f"{file}: is empty; a line with the names of the columns is expected")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(f"{file}: has two columns called '{twice[0]}'; rename one of them")
    return StudyTable(file, columns, lines)


def _text(content: bytes, path: str, file: str) -> Iterator[tuple[int, Sequence[str | None]]]:
    """The header and the lines that are not blank. pyarrow's reader knows no line numbers and stops at Latin-1.

    A TSV has no quoting (BIDS), so that a quote is text; a field that is quoted as a whole loses its quotes.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or content[:1000].count(0) > len(content[:1000]) / 3:
        raise DataError(f"{file}: is text in UTF-16; save it in UTF-8")
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", errors="replace", newline="")
    delimiter = DELIMITERS[path[-4:].lower()]
    is_plain = delimiter == "\t"
    lines = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE if is_plain else csv.QUOTE_MINIMAL)
    for fields in lines:
        if any(field.strip() for field in fields):
            yield lines.line_num, [_unquoted(field) for field in fields] if is_plain else fields


def _unquoted(field: str) -> str:
    match = re.fullmatch(r'\s*"((?:[^"]|"")*)"\s*', field)
    return match[1].replace('""', '"') if match else field


def _swallows_rows(field: str, columns: Sequence[str]) -> bool:
    """Whether a field goes on over whole rows: a quote that was never meant to open it does that."""
    lines = field.splitlines()[1:] if "\n" in field or "\r" in field else []
    return len(columns) > 1 and any(line.count(",") >= len(columns) - 1 for line in lines)


def _parquet(storage: Storage, path: str) -> Iterator[tuple[int, Sequence[str | None]]]:
    """The same of Parquet, whose numbers and dates become text. The index that pandas adds gets an empty name."""
    with storage.open_random(path) as stream:
        file = pq.ParquetFile(stream)
        for field in file.schema_arrow:
            if pa.types.is_nested(field.type) or pa.types.is_duration(field.type):
                raise pa.ArrowInvalid(f"column '{field.name}' is {field.type}, neither numbers, dates nor text")
        yield 0, tuple("" if name.startswith("__index_level_") else name for name in file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches():
            for fields in zip(*(column.cast(pa.string()).to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield number, fields


def first_line(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def parse_number(text: str) -> float | None:
    """The text as a finite number; none if it is no such number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def covariates_of(row: Mapping[str, str]) -> Covariates:
    """Numbers as floats, other values as text."""
    return {name: text if (value := parse_number(text)) is None else value for name, text in row.items()}


def shared_columns(subjects: Iterable[Sequence[Row]]) -> frozenset[str]:
    """The columns with one value in all rows of every subject: they describe the subject, not a visit."""
    names: set[str] = set()
    varying: set[str] = set()
    for rows in subjects:
        first: Row = {}
        for row in rows:
            names.update(row)
            varying.update(name for name, text in row.items() if first.setdefault(name, text) != text)
    return frozenset(names - varying)


def natural_sort_key(name: str) -> tuple[list[str | int], str]:
    """A key that sorts ses-2 before ses-10."""
    pieces = re.split(r"([0-9]+)", name)  # text and digits alternate
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], name
