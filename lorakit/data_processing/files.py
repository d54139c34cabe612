"""Files of rows, recognised by content: JSON, JSON Lines, CSV, Parquet, or a Hub dataset."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.config.paths import fault_of_file, is_missing
from lorakit.data_processing.example import Rejected, shortened
from lorakit.errors import DataError

_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+(:[\w.\-\[\]%]+)?$")
_FILE_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".xlsx", ".gz", ".zip")
_CONTAINERS = ("data", "rows", "examples", "train")  # {"data": [...]} around the list
csv.field_size_limit(2**31 - 1)  # the default refuses cells over 128 KiB


@dataclass(frozen=True)
class RawRow:
    """A row as the file has it, not yet understood."""

    fields: Any
    origin: str


def read_rows(name: str) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a file or Hub dataset one by one; a broken line as `Rejected`.

    Raises:
        DataError: The file is missing, unreadable, or not of a known format.
    """
    fault = fault_of_file(name)
    if fault is None:
        yield from _read_file(Path(name), name)
    elif not is_missing(fault):
        raise DataError(f"{name}: {fault}", "name a file of rows")
    elif _HUB_NAME.match(name) and not name.partition(":")[0].lower().endswith(_FILE_ENDINGS):
        yield from _read_hub(name)
    else:
        raise DataError(f"{name}: there is no such file", "correct train_file or validation_file in config.yaml")


def _read_file(path: Path, name: str) -> Iterator[RawRow | Rejected]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})", "check the file's permissions") from error
    if content[:4] == b"PAR1":
        yield from _read_parquet(path, name)
        return
    text = _decode(content, name)
    start = text.lstrip()
    if not start:
        raise DataError(f"{name}: is empty", 'it needs rows such as {"text": "question", "target": "answer"}')
    if start[0] == "[" or (start[0] == "{" and _is_one_document(start)):
        yield from _read_json(text, name)
    elif start[0] == "{":
        yield from _read_json_lines(text, name)
    else:
        yield from _read_csv(text, name)


def _decode(content: bytes, name: str) -> str:
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{name}: is neither UTF-8 nor GB18030 text", "save the file as UTF-8")


@dataclass(frozen=True)
class _Broken:
    """A JSON object that cannot be used; it must not take the rows around it along."""

    reason: str


def _tolerant(pairs: list[tuple[str, Any]]) -> Any:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else _Broken(f'"{_twice([key for key, _ in pairs])}" stands twice')


def _twice(names: list[str]) -> str | None:
    """Return the first name that stands a second time, cut to what a message can bear."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return shortened(name)
        seen.add(name)
    return None


class _NotJsonError(ValueError):
    """The text is not JSON; ``line`` and ``column`` say where, if that is known."""

    def __init__(self, reason: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(reason)
        self.line = line
        self.column = column


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_tolerant)
    except json.JSONDecodeError as error:
        raise _NotJsonError(f"is not valid JSON ({error.msg})", error.lineno, error.colno) from error
    except RecursionError as error:
        raise _NotJsonError("is nested too deeply") from error
    except ValueError as error:  # Python's own limit on the digits of a whole number
        raise _NotJsonError("holds a number of thousands of digits") from error


def _is_one_document(start: str) -> bool:
    """Tell {"data": [...]} over many lines from JSON Lines, where every line is complete."""
    if _is_json(start.split("\n", 1)[0]):
        return "\n" not in start.strip()
    return _is_json(start)


def _is_json(text: str) -> bool:
    try:
        _parse(text)
    except _NotJsonError:
        return False
    return True


def _read_json(text: str, name: str) -> Iterator[RawRow | Rejected]:
    try:
        document = _parse(text)
    except _NotJsonError as error:
        place = name if error.line is None else f"{name} line {error.line} column {error.column}"
        hint = "write a list of rows" if error.line is None else "is the file complete? check the place named"
        raise DataError(f"{place}: {error}", hint) from error
    if isinstance(document, dict):
        container = next((key for key in _CONTAINERS if isinstance(document.get(key), list)), None)
        document = document[container] if container else [document]
    if isinstance(document, _Broken):
        raise DataError(f"{name}: {document.reason}", "keep one of the two")
    if not isinstance(document, list):
        raise DataError(f"{name}: is not a list of rows", 'write [{"text": "question", "target": "answer"}, ...]')
    for number, fields in enumerate(document, start=1):
        origin = f"{name} item {number}"
        yield Rejected(origin, fields.reason) if isinstance(fields, _Broken) else RawRow(fields, origin)


def _read_json_lines(text: str, name: str) -> Iterator[RawRow | Rejected]:
    # Not splitlines(): it also breaks at characters that may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        origin = f"{name} line {number}"
        try:
            fields = _parse(line)
        except _NotJsonError as error:
            yield Rejected(origin, f"{error}" + (f", column {error.column}" if error.column else ""))
        else:
            yield Rejected(origin, fields.reason) if isinstance(fields, _Broken) else RawRow(fields, origin)


def _read_csv(text: str, name: str) -> Iterator[RawRow | Rejected]:
    header_line = text.lstrip().split("\n", 1)[0]
    delimiter = next((mark for mark in ("\t", ",", ";") if mark in header_line), None)
    if delimiter is None or "\0" in header_line:
        raise DataError(
            f"{name}: is not JSON, JSON Lines, CSV or Parquet",
            'write a JSON list of {"text": "question", "target": "answer"}',
        )
    reader = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        header = _csv_header(next(reader), name)
        for cells in reader:
            if not any(cells):
                continue
            number += 1
            origin = f"{name} row {number}"
            if len(cells) != len(header):
                yield Rejected(origin, f"has {len(cells)} cells where the header has {len(header)}")
            else:
                yield RawRow(dict(zip(header, map(_csv_value, cells), strict=True)), origin)
    except csv.Error as error:
        place = f"row {number + 1}" if number else "header or row 1"
        raise DataError(f"{name} {place}: is not valid CSV ({error})", "check its quotation marks") from error


def _csv_header(cells: list[str], name: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    if (twice := _twice([cell for cell in header if cell])) is not None:
        raise DataError(f'{name} header: "{twice}" stands twice', "give each column a name of its own")
    return header


def _csv_value(cell: str) -> str | float:
    """Programs write a missing number as NaN; learnt as an answer, it would be the word."""
    return math.nan if cell.strip().lower() == "nan" else cell


def _read_parquet(path: Path, name: str) -> Iterator[RawRow | Rejected]:
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if (twice := _twice(file.schema_arrow.names)) is not None:
                raise DataError(f'{name}: has two columns "{twice}"', "give each column a name of its own")
            for batch in file.iter_batches():
                for fields in batch.to_pylist():
                    number += 1
                    present = {key: value for key, value in fields.items() if value is not None}
                    yield RawRow(present, f"{name} row {number}")
    except DataError:
        raise
    except Exception as error:  # pyarrow's own classes, OSError, and UnicodeDecodeError of damaged text
        reason = shortened(str(error)) or type(error).__name__
        raise DataError(f"{name}: is a damaged Parquet file ({reason})", "write the file anew") from error


def _read_hub(name: str) -> Iterator[RawRow | Rejected]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name}: there is no such file, and Hub datasets need the package datasets",
            "correct the path, or: pip install -e .[hub]",
        ) from error
    repository, _, split = name.partition(":")
    try:
        rows = datasets.load_dataset(repository, split=split or "train")
    except Exception as error:  # the library raises a dozen unrelated classes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{name}: is neither a file nor a Hub dataset that can be loaded ({reason})",
            "correct the path, or check the name, the split (owner/name:split) and the network",
        ) from error
    for number, fields in enumerate(rows, start=1):
        present = {key: value for key, value in fields.items() if value is not None}
        yield RawRow(present, f"{name} row {number}")
