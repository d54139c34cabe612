"""Files of rows, recognised by content: JSON, JSON Lines, CSV, Parquet, or a Hub dataset."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lorakit.data_processing.example import Rejected
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
    path = Path(name)
    if path.is_file():
        yield from _read_file(path, name)
    elif path.exists():
        raise DataError(f"{name}: is a folder", "name a file of rows")
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


class _UnusableJsonError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _UnusableJsonError(f'"{twice}" stands twice')
    return fields


def _no_constant(word: str) -> NoReturn:
    raise _UnusableJsonError(f"{word} is not a value")


@dataclass(frozen=True)
class _Broken:
    """A JSON object that cannot be used; it must not take the rows around it along."""

    reason: str


def _tolerant(pairs: list[tuple[str, Any]]) -> Any:
    try:
        return _unique(pairs)
    except _UnusableJsonError as error:
        return _Broken(str(error))


def _is_one_document(start: str) -> bool:
    """Tell {"data": [...]} over many lines from JSON Lines, where every line is complete."""
    try:
        json.loads(start.split("\n", 1)[0])
    except ValueError:
        try:
            json.loads(start)
        except ValueError:
            return False
        return True
    return "\n" not in start.strip()


def _read_json(text: str, name: str) -> Iterator[RawRow | Rejected]:
    try:
        document = json.loads(text, object_pairs_hook=_tolerant)
    except json.JSONDecodeError as error:
        place = f"{name} line {error.lineno} column {error.colno}"
        raise DataError(
            f"{place}: is not valid JSON ({error.msg})", "is the file complete? check the place named"
        ) from error
    except RecursionError as error:
        raise DataError(f"{name}: is nested too deeply", "write a list of rows") from error
    if isinstance(document, dict):
        container = next((key for key in _CONTAINERS if isinstance(document.get(key), list)), None)
        document = document[container] if container else [document]
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
            fields = json.loads(line, object_pairs_hook=_tolerant)
        except json.JSONDecodeError as error:
            yield Rejected(origin, f"is not valid JSON ({error.msg}, column {error.colno})")
        except RecursionError:
            yield Rejected(origin, "is nested too deeply")
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
    header = [cell.strip() for cell in next(reader)]
    number = 0
    try:
        for cells in reader:
            if not any(cells):
                continue
            number += 1
            origin = f"{name} row {number}"
            if len(cells) != len(header):
                yield Rejected(origin, f"has {len(cells)} cells where the header has {len(header)}")
            else:
                yield RawRow(dict(zip(header, cells, strict=True)), origin)
    except csv.Error as error:
        raise DataError(f"{name} row {number + 1}: is not valid CSV ({error})", "check its quotation marks") from error


def _read_parquet(path: Path, name: str) -> Iterator[RawRow | Rejected]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for fields in batch.to_pylist():
                    number += 1
                    present = {key: value for key, value in fields.items() if value is not None}
                    yield RawRow(present, f"{name} row {number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name}: is a damaged Parquet file ({error})", "write the file anew") from error


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
