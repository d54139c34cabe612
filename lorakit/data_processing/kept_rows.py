"""Rows of an earlier start, as token ids in files that are mapped into memory.

Large files of rows are read and encoded once. What became of them is kept in the cache, under a name made of all
that it depends on: the content of the files, how they are read, tokenizer, chat template, and the code itself. Nothing
is taken that is not whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from lorakit import console
from lorakit.data_processing.example import Rejected
from lorakit.data_processing.files.opening import files_of
from lorakit.data_processing.ledger import FieldFate
from lorakit.data_processing.reading import ReadRows, Source, read_all
from lorakit.data_processing.tokens.columns import Columns, read_arrays
from lorakit.data_processing.tokens.written_rows import Encoding
from lorakit.runs.cache import cache_folder

_LEAST_BYTES = 1_000_000  # smaller files are read in a moment
_LEAST_ROWS = 20_000
_MOST_KEPT_BYTES = 20_000_000_000
_BLOCK = 1 << 22
_RECORD, _FOLDER, _WRITING = "rows.json", "rows", ".lorakit-writing-"


def read_or_kept(sources: Sequence[Source], encoding: Encoding) -> ReadRows:
    """Read and encode rows, or take those that are kept.

    Args:
        sources: The files, and how each is read.
        encoding: How rows become tokens.

    Raises:
        DataError: A file cannot be read.
    """
    files = _files(sources)
    if files is None or sum(file.stat().st_size for file in files) < _LEAST_BYTES:
        return read_all(sources, encoding, None)
    before = _states(files)
    name = _name(sources, files, encoding)
    if name is None:
        return read_all(sources, encoding, None)
    place = cache_folder() / _FOLDER / name
    if (kept := _kept(place)) is not None:
        return kept
    try:
        with _working_folder(place.parent) as folder, console.overheard() as said:
            rows = read_all(sources, encoding, folder)
            if rows.count >= _LEAST_ROWS and not rows.columns.pictures and _states(files) == before:
                return _keep(rows, said, folder, place)
            return rows
    except OSError as error:
        console.note(f"rows are kept in memory: {place.parent} cannot be written ({error.strerror or error})")
        return read_all(sources, encoding, None)


def _files(sources: Sequence[Source]) -> list[Path] | None:
    found = [files_of(source.path) for source, _ in sources]
    return None if None in found else [file for files in found for file in files or ()]


def _states(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Return what changes when a file does."""
    return [(state.st_size, state.st_mtime_ns) for file in files for state in [file.stat()]]


def _name(sources: Sequence[Source], files: Sequence[Path], encoding: Encoding) -> str | None:
    """Return the SHA-256 of all that the outcome depends on; None where that cannot be told."""
    identity = encoding.chat_format.identity
    if identity is None:
        return None
    rules = {name: str(value) for name, value in asdict(encoding.rules).items() if name != "ignored"}
    settings = [sorted(encoding.rules.ignored), encoding.max_length, encoding.trains_reasoning]
    named = [[source.path, [str(value) for value in _values(reading)]] for source, reading in sources]
    try:
        contents = [[str(file), _content(file)] for file in files]
    except OSError:
        return None
    facts = [_code(), identity, rules, settings, named, contents]
    return hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogatepass")).hexdigest()


def _values(reading: Any) -> list[Any]:
    return [sorted(value) if isinstance(value, frozenset) else value for value in vars(reading).values()]


def _content(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@cache
def _code() -> str:
    """Return the SHA-256 of the code that reads and encodes, and the versions of what it calls."""
    import tokenizers
    import transformers

    digest = hashlib.sha256(f"{transformers.__version__} {tokenizers.__version__}".encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@contextmanager
def _working_folder(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_WRITING, dir=parent))  # for this user alone
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep(rows: ReadRows, said: list[tuple[str, str]], folder: Path, place: Path) -> ReadRows:
    """Give columns their place in the cache, and map them from there."""
    arrays = rows.columns.arrays
    for name, array in arrays.items():
        if not (folder / f"{name}.bin").exists():
            (folder / f"{name}.bin").write_bytes(array.data)
    record = {
        "digests": {name: _quick_digest(array) for name, array in arrays.items()},
        "beginnings": rows.columns.beginnings,
        "rejected": [asdict(one) for one in rows.rejected],
        "fields": [asdict(one) for one in rows.fields],
        "bounds": rows.bounds,
        "said": said,
    }
    written = json.dumps(record).encode()
    (folder / _RECORD).write_bytes(b"%b\n%b" % (xxhash.xxh3_128_hexdigest(written).encode(), written))
    _make_room(place.parent, sum(array.nbytes for array in arrays.values()))
    with suppress(OSError):  # another process has been as fast
        os.rename(folder, place)
    return _kept(place, is_quiet=True) or rows


def _kept(place: Path, is_quiet: bool = False) -> ReadRows | None:
    """Return the rows that are kept; None where there are none, or something of them is damaged."""
    try:
        digest, _, written = (place / _RECORD).read_bytes().partition(b"\n")
        if digest != xxhash.xxh3_128_hexdigest(written).encode():
            raise ValueError
        record, arrays = json.loads(written), read_arrays(place)
        if {name: _quick_digest(array) for name, array in arrays.items()} != record["digests"]:
            raise ValueError
        rows = ReadRows(
            Columns(arrays, tuple(record["beginnings"])),
            tuple(Rejected(**one) for one in record["rejected"]),
            tuple(FieldFate(**one) for one in record["fields"]),
            tuple((first, end) for first, end in record["bounds"]),
        )
        os.utime(place)
    except (OSError, ValueError):
        shutil.rmtree(place, ignore_errors=True)
        return None
    if not is_quiet:
        console.repeat((kind, text) for kind, text in record["said"])
        console.note(f"{rows.count:,} rows as read before, from {place}")
    return rows


def _quick_digest(array: Any) -> str:
    return xxhash.xxh3_128_hexdigest(array.data)


def _make_room(parent: Path, wanted_bytes: int) -> None:
    """Delete what was not used for longest, until what is wanted fits."""
    kept = [place for place in parent.iterdir() if (place / _RECORD).is_file() and not place.name.startswith(_WRITING)]
    sizes = {place: sum(file.stat().st_size for file in place.iterdir()) for place in kept}
    total = wanted_bytes + sum(sizes.values())
    for place in sorted(kept, key=lambda one: one.stat().st_mtime):
        if total <= _MOST_KEPT_BYTES:
            break
        total -= sizes[place]
        shutil.rmtree(place, ignore_errors=True)
