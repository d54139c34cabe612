"""Rows of tables: CSV in the forms that programs write, Parquet, and a spreadsheet's own files."""

from __future__ import annotations

import csv
import datetime
import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from lorakit import console
from lorakit.data_processing.example import Rejected, shortened
from lorakit.data_processing.field_names import judged
from lorakit.data_processing.raw import MOST_VALUES, RawRow, twice
from lorakit.errors import DataError
from lorakit.invocation import installing

_DELIMITERS = ("\t", ",", ";", "|")
_TRIED_RECORDS = 50
_MOST_NAMES_JUDGED = 1000  # of a header, to choose its delimiter
_LEAST_BOUND_BYTES, _MOST_TIMES_PACKED = 20_000_000, 100
_MOST_SHEET_ROWS = 1_048_576  # of any spreadsheet
_NO_HEADER = "the first row that is not empty is the header: delete titles above it, and split merged cells in it"
_MANY_EMPTY_CELLS, _MOST_EMPTY_SHARE = 1_000_000, 0.99  # of a spreadsheet, in which a cell far off makes the others
_BATCH_BYTES = 256_000_000  # of rows that are unpacked at once, if each were as large as a whole column
_BYTES_OF_A_ROW = 250  # in memory, without what stands in it
# How programs write a cell without a value; learnt as an answer, it would be the word.
_MISSING = {"nan", "-nan", "null", "n/a", "#n/a", "#na", "<na>", "#null!", "#ref!", "#value!", "#name?", "#div/0!"}
csv.field_size_limit(2**31 - 1)  # the default refuses cells over 128 KiB


_RULE = re.compile(r"\s*(?::?-+:?)?\s*")  # below the header of a table in Markdown, whose cells are padded


def read_csv(text: str, name: str, known: frozenset[str]) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a table; their numbers are those that a spreadsheet shows.

    Args:
        text: Of the file.
        name: Of the file.
        known: Names that the settings give to columns.

    Raises:
        DataError: It is no table, or its quotation marks are broken.
    """
    body = text.lstrip("\r\n")
    number = text[: len(text) - len(body)].count("\n")
    first, _, rest = body.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # Excel's own word for the delimiter
        delimiter: str | None = first.strip()[4]
        body, number = rest, number + 1
    else:
        delimiter = _delimiter_of(body, known)
    if delimiter is None or "\0" in first:
        raise DataError(
            f"{name}: is not JSON, JSON Lines, CSV or Parquet",
            'write a JSON list of {"text": "question", "target": "answer"}',
        )
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    is_ruled: bool | None = None  # not known before the second row
    try:
        for cells in reader:
            number += 1
            if not header:
                header = _header([cell.strip() for cell in cells], name)
            elif is_ruled is None and (is_ruled := delimiter == "|" and _is_rule(cells)):
                continue
            elif any(cells):
                found = [cell.strip() for cell in cells] if is_ruled else cells
                yield _record(found, header, f"{name} row {number}")
    except csv.Error as error:
        raise DataError(f"{name} row {number + 1}: is not valid CSV ({error})", "check its quotation marks") from error


def _is_rule(cells: Sequence[str]) -> bool:
    return any("-" in cell for cell in cells) and all(map(_RULE.fullmatch, cells))


def _delimiter_of(body: str, known: frozenset[str]) -> str | None:
    """Choose the delimiter that gives most records the width of the header, and the header known names."""
    found = {delimiter: score for delimiter in _DELIMITERS if (score := _score(body, delimiter, known)) is not None}
    if found:
        return max(found, key=lambda delimiter: found[delimiter])
    first = body.partition("\n")[0]
    if _count_named([first.strip().strip('"')], known):  # a single column, such as one of questions
        return ","
    # such as a header with a quotation mark left open: reading it will say so
    return next((delimiter for delimiter in _DELIMITERS if delimiter in first and '"' in first), None)


def _count_named(names: Sequence[str], known: frozenset[str]) -> int:
    return sum(name in known or judged(name, frozenset()).fate == "meant" for name in names if name)


def _score(body: str, delimiter: str, known: frozenset[str]) -> tuple[float, int] | None:
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter)
    records = []
    try:
        for cells in reader:
            if any(cells):
                records.append(cells)
            if len(records) > _TRIED_RECORDS:
                break
    except csv.Error:  # the reading itself will say where
        pass
    if not records or len(records[0]) < 2:
        return None
    header, *others = records
    names = [cell.strip() for cell in header[:_MOST_NAMES_JUDGED]]
    named = _count_named(names, known)
    fitting = sum(len(cells) == len(header) for cells in others) / len(others) if others else 1.0
    return (named > 0) + fitting, named


def _header(cells: list[str], name: str) -> list[str]:
    _check_width(len(cells), name)
    header = [cell or f"column {number}" for number, cell in enumerate(cells, start=1)]
    if (again := twice(header)) is not None:
        raise DataError(f'{name} header: "{again}" stands twice', "give each column a name of its own")
    return header


def _check_width(columns: int, name: str) -> None:
    if columns > MOST_VALUES:
        raise DataError(
            f"{name}: has more than {MOST_VALUES} columns",
            "write those that hold questions and answers into a new file",
        )


def _record(cells: Sequence[str], header: Sequence[str], origin: str) -> RawRow | Rejected:
    if len(cells) != len(header):
        return Rejected(origin, f"has {len(cells)} cells where the header has {len(header)}")
    fields: dict[str, str | float] = dict(zip(header, map(_value, cells), strict=True))
    if header[0] == "column 1" and cells[0].strip().isdigit():  # pandas' own index, which has no name
        fields["index"] = fields.pop("column 1")
    return RawRow(fields, origin)


def _value(cell: str) -> str | float:
    return math.nan if cell.strip().lower() in _MISSING or cell.strip() == "NA" else cell


def read_parquet(content: BinaryIO, name: str) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a Parquet file.

    Raises:
        DataError: It is damaged, or has two columns of one name.
    """
    import pyarrow.parquet

    number, packed_bytes = 0, size_of(content)
    try:
        with pyarrow.parquet.ParquetFile(content) as file:
            _check_width(len(file.schema_arrow.names), name)
            if (again := twice(file.schema_arrow.names)) is not None:
                raise DataError(f'{name}: has two columns "{again}"', "give each column a name of its own")
            for batch in _bounded_batches(file, packed_bytes, name):
                for fields in batch.to_pylist():
                    number += 1
                    yield RawRow(without_nulls(fields), f"{name} row {number}")
    except DataError:
        raise
    except Exception as error:  # pyarrow's own classes, OSError, and UnicodeDecodeError of damaged text
        reason = shortened(str(error)) or type(error).__name__
        raise DataError(f"{name}: is a damaged Parquet file ({reason})", "write the file anew") from error


def size_of(content: BinaryIO) -> int:
    """Return how many bytes a file has; it stands at its beginning afterwards."""
    size = content.seek(0, io.SEEK_END)
    content.seek(0)
    return size


def most_unpacked_bytes(packed_bytes: int) -> int:
    """Return how much a packed file may hold."""
    return max(_LEAST_BOUND_BYTES, _MOST_TIMES_PACKED * packed_bytes)


def check_unpacked(unpacked_bytes: int, packed_bytes: int, name: str) -> None:
    """Hold what a packed file holds to its size: no text packs any better.

    Raises:
        DataError: It is more.
    """
    if unpacked_bytes > most_unpacked_bytes(packed_bytes):
        raise DataError(
            f"{name}: unpacks to more than {_MOST_TIMES_PACKED} times its size, which no text does",
            "unpack it, and look what is in it",
        )


def _bounded_batches(file: Any, packed_bytes: int, name: str) -> Iterator[Any]:
    """Yield the rows of a Parquet file a few at a time, until they are more than it could hold.

    A value that repeats stands in a file once: how often it does shows only when it is unpacked.
    """
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    claimed = sum(column.total_uncompressed_size for column in columns) + _BYTES_OF_A_ROW * file.metadata.num_rows
    check_unpacked(claimed, packed_bytes, name)
    widest = max((column.total_uncompressed_size for column in columns), default=1)
    unpacked = 0
    for batch in file.iter_batches(batch_size=min(max(_BATCH_BYTES // max(widest, 1), 16), 65536)):
        plain = batch.cast(_without_dictionaries(batch.schema))
        unpacked += plain.nbytes + _BYTES_OF_A_ROW * plain.num_rows
        check_unpacked(unpacked, packed_bytes, name)
        yield plain


def _without_dictionaries(schema: Any) -> Any:
    """Return a schema whose columns hold each value as often as it occurs, however the file was written."""
    import pyarrow

    is_dictionary = pyarrow.types.is_dictionary
    return pyarrow.schema(
        [field.with_type(field.type.value_type) if is_dictionary(field.type) else field for field in schema]
    )


def without_nulls(value: Any) -> Any:
    """Leave out what a column format writes as null where a row has no such key, inside lists and objects too."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def read_xlsx(content: BinaryIO, name: str) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a spreadsheet's first sheet; the values of formulas are those that were saved.

    Raises:
        DataError: It is damaged, or openpyxl is not installed.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(
            f"{name}: is a spreadsheet, which needs the package openpyxl",
            f"{installing('xlsx')}, or save it as CSV (UTF-8)",
        ) from error
    try:
        with zipfile.ZipFile(content) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
        check_unpacked(unpacked, size_of(content), name)
        book = openpyxl.load_workbook(content, read_only=True, data_only=True)
        sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets
        if len(sheets) > 1:
            others = ", ".join(shortened(sheet.title, 40) for sheet in sheets[1:])
            console.warn(f"{name}: only the first sheet is read; these stand beside it: {others}")
        records = enumerate(sheets[0].iter_rows(values_only=True), start=1)
        yield from _sheet_rows(records, name)
        book.close()
    except DataError:
        raise
    except Exception as error:  # zipfile's, XML's and openpyxl's own classes
        raise DataError(f"{name}: is a damaged spreadsheet ({shortened(str(error))})", "save it as CSV") from error


def _sheet_rows(records: Iterator[tuple[int, Sequence[Any]]], name: str) -> Iterator[RawRow | Rejected]:
    header: list[str] = []
    known = empty = 0  # cells below the header
    for number, cells in records:
        if number > _MOST_SHEET_ROWS:
            raise DataError(f"{name}: has more than {_MOST_SHEET_ROWS} rows", "save it as CSV or Parquet")
        empty += sum(cell is None for cell in cells[: len(header)])
        known += len(header)
        if empty > _MANY_EMPTY_CELLS and empty > _MOST_EMPTY_SHARE * known:
            raise DataError(f"{name}: consists of empty cells, nearly all of it", "save what it holds as CSV")
        if not any(cell is not None for cell in cells):
            continue
        if not header:
            width = max(place for place, cell in enumerate(cells, start=1) if cell is not None)
            header = _header([str(cell).strip() if cell is not None else "" for cell in cells[:width]], name)
            continue
        values = [_cell(cell) for cell in cells]
        if any(value is not None for value in values[len(header) :]):
            yield Rejected(f"{name} row {number}", f"has cells beyond the header's {len(header)}", _NO_HEADER)
            continue
        yield RawRow(dict(zip(header, values, strict=False)), f"{name} row {number}")


def _cell(value: Any) -> Any:
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():  # as openpyxl reads a day
        return value.date().isoformat()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return _value(value) if isinstance(value, str) else value
