"""Files of rows, known by content: JSON, JSON Lines, CSV, Parquet, a spreadsheet, packed or not; or a Hub dataset."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from lorakit import console
from lorakit.data_processing.example import Rejected, shortened
from lorakit.data_processing.files.encodings import decode
from lorakit.data_processing.files.json_rows import read_json_text
from lorakit.data_processing.files.tables import (
    check_unpacked,
    most_unpacked_bytes,
    read_csv,
    read_parquet,
    read_xlsx,
    size_of,
)
from lorakit.data_processing.raw import RawRow, fault_of_size
from lorakit.errors import DataError
from lorakit.incoming import fault_of_file, is_folder, is_missing, open_file

_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+(:[\w.\-\[\]%:]+)?$")
_ROWS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xlsx")
_PACKED = (".gz", ".zst", ".bz2")
_FILE_ENDINGS = (*_ROWS, *_PACKED, ".txt", ".zip", ".xls", ".arrow")
_FOREIGN = {  # by their first bytes
    b"\xd0\xcf\x11\xe0": ("is an old Excel file", "save it as .xlsx, or as CSV (UTF-8)"),
    b"ARROW1": ("is an Arrow file", "write it as Parquet"),
    b"%PDF": ("is a PDF", "rows of questions and answers are needed"),
    b"SQLite": ("is a database", "write its table as CSV or Parquet"),
}


@dataclass(frozen=True)
class Reading:
    """How a file is to be read.

    Attributes:
        encoding: Of what is not UTF-8; None to find out.
        columns: Names that the settings give to columns.
        configuration: Of a Hub dataset that has several.
        split: Of a Hub dataset.
        most: Only the first so many rows; None for all.
    """

    encoding: str | None = None
    columns: frozenset[str] = frozenset()
    configuration: str | None = None
    split: str | None = None
    most: int | None = None


_DEFAULT = Reading()


def read_rows(name: str, reading: Reading = _DEFAULT) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a file, a folder of files or a Hub dataset one by one; a broken line as `Rejected`.

    Raises:
        DataError: The file is missing, unreadable, or not of a known format.
    """
    rows = map(_of_a_size, _rows(name, reading))
    return rows if reading.most is None else islice(rows, min(reading.most, sys.maxsize))


def _of_a_size(row: RawRow | Rejected) -> RawRow | Rejected:
    fault = fault_of_size(row) if isinstance(row, RawRow) else None
    return row if fault is None else Rejected(row.origin, fault)


def files_of(name: str) -> list[Path] | None:
    """Return the files whose rows `read_rows` would yield; None where that is not known before they are read."""
    if is_folder(Path(name)):
        try:
            return [inner for file in _files_in(Path(name)) for inner in files_of(str(file)) or ()]
        except OSError:
            return None
    return [Path(name)] if fault_of_file(name) is None else None


def _files_in(folder: Path) -> list[Path]:
    endings = (*_ROWS, *(row + packed for row in _ROWS for packed in _PACKED))
    return [file for file in sorted(folder.iterdir()) if file.name.lower().endswith(endings) and file.is_file()]


def _rows(name: str, reading: Reading) -> Iterator[RawRow | Rejected]:
    if is_folder(Path(name)):
        yield from _read_folder(Path(name), name, reading)
        return
    fault = fault_of_file(name)
    if fault is None:
        folder = Path(name).parent
        for row in _read_file(Path(name), name, reading):
            yield row if isinstance(row, Rejected) else RawRow(row.fields, row.origin, folder)
    elif not is_missing(fault):
        raise DataError(f"{name}: {fault}", "name a file of rows")
    elif _HUB_NAME.match(name) and not name.partition(":")[0].lower().endswith(_FILE_ENDINGS):
        from lorakit.data_processing.files.hub import read_hub

        yield from read_hub(name, reading.configuration, reading.split, reading.most)
    else:
        raise DataError(f"{name}: there is no such file", "correct train_file, validation_file or question_file")


def _read_folder(folder: Path, name: str, reading: Reading) -> Iterator[RawRow | Rejected]:
    """Read all files of rows that lie in a folder, in the order of their names."""
    try:
        there, files = sorted(folder.iterdir()), _files_in(folder)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})", "check the folder's permissions") from error
    if not files:
        raise DataError(f"{name}: is a folder without files of rows", f"their names end in {', '.join(_ROWS)}")
    if others := [other.name for other in there if other not in files and not other.name.startswith(".")]:
        console.note(f"{name}: not read: {shortened(', '.join(others))}")
    for file in files:
        yield from _rows(str(file), reading)


def _read_file(path: Path, name: str, reading: Reading) -> Iterator[RawRow | Rejected]:
    """Read one file by one opening of it: whatever takes its place meanwhile is another file."""
    try:
        with open_file(path, sys.maxsize) as file:
            before = _version(file)
            first = file.read(8)
            file.seek(0)
            foreign = next((said for magic, said in _FOREIGN.items() if first.startswith(magic)), None)
            if foreign is not None:
                raise DataError(f"{name}: {foreign[0]}", foreign[1])
            if first.startswith(b"PAR1"):
                yield from read_parquet(file, name)
            elif first.startswith(b"PK\x03\x04"):
                yield from _read_zip(file, name)
            elif (content := _unpacked(file, first, name)) is not None:
                yield from _read_unpacked(content, name, reading)
            else:
                content = file.read()
                _check_unchanged(file, before, name)
                yield from _read_text(content, name, reading)
            _check_unchanged(file, before, name)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})", "check the file's permissions") from error


def _version(file: BinaryIO) -> tuple[int, int]:
    """Return what changes when something is written into a file."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _check_unchanged(file: BinaryIO, before: tuple[int, int], name: str) -> None:
    if _version(file) != before:
        raise DataError(f"{name}: has changed while it was read", "wait until it is whole, then run this again")


def _read_zip(file: BinaryIO, name: str) -> Iterator[RawRow | Rejected]:
    try:
        with zipfile.ZipFile(file) as archive:
            is_spreadsheet = "xl/workbook.xml" in archive.namelist()
    except OSError:
        raise
    except Exception:  # BadZipFile; of damaged fields struct.error, ValueError or NotImplementedError
        raise DataError(f"{name}: is a damaged ZIP archive or spreadsheet", "write the file anew") from None
    if not is_spreadsheet:
        raise DataError(f"{name}: is a ZIP archive or an OpenDocument file", "unpack it, or save it as CSV (UTF-8)")
    yield from read_xlsx(file, name)


def _unpacked(file: BinaryIO, first: bytes, name: str) -> bytes | None:
    """Return the content of a packed file; None for one that is not packed."""
    size = size_of(file)
    try:
        if first.startswith(b"\x1f\x8b"):
            with gzip.open(file) as stream:
                return _to_its_end(stream, size, name)
        if first.startswith(b"BZh"):
            with bz2.open(file) as stream:
                return _to_its_end(stream, size, name)
        if first.startswith(b"\x28\xb5\x2f\xfd"):
            import pyarrow

            with pyarrow.input_stream(pyarrow.py_buffer(file.read()), compression="zstd") as stream:
                return _to_its_end(stream, size, name)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{name}: is a damaged packed file ({error})", "pack the file anew") from error
    return None


def _to_its_end(stream: Any, packed_bytes: int, name: str) -> bytes:
    """Read what a packed file holds, unless that is more than text could ever be packed to."""
    content = bytes(stream.read(most_unpacked_bytes(packed_bytes) + 1))
    check_unpacked(len(content), packed_bytes, name)
    return content


def _read_unpacked(content: bytes, name: str, reading: Reading) -> Iterator[RawRow | Rejected]:
    if content.startswith(b"PAR1"):
        yield from read_parquet(io.BytesIO(content), name)
    else:
        yield from _read_text(content, name, reading)


def _read_text(content: bytes, name: str, reading: Reading) -> Iterator[RawRow | Rejected]:
    decoded = decode(content, name, reading.encoding)
    start = decoded.text.lstrip()
    if not start:
        raise DataError(f"{name}: is empty", 'it needs rows such as {"text": "question", "target": "answer"}')
    if decoded.note is not None:
        console.note(f"{name}: {decoded.note}")
    if start[0] in "[{":
        yield from read_json_text(decoded.text, name)
    else:
        yield from read_csv(decoded.text, name, reading.columns)
