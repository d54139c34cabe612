"""Files of rows, read and encoded into columns, with the account of what became of every row and field."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path

from lorakit import console
from lorakit.config.kinds import RowSource
from lorakit.data_processing.example import Rejected, shortened
from lorakit.data_processing.files.opening import Reading, read_rows
from lorakit.data_processing.ledger import FieldFate
from lorakit.data_processing.raw import RawRow
from lorakit.data_processing.tokens.columns import Columns, Writer
from lorakit.data_processing.tokens.side_processes import SideProcesses
from lorakit.data_processing.tokens.written_rows import Encoding, RowEncoder

_ROWS_AT_ONCE = 1000
_SHOWN_NAME = 40
_LARGE_BYTES = 20_000_000  # of which a second or more goes by before the first row


@dataclass(frozen=True)
class ReadRows:
    """What became of the rows of one or several files.

    Attributes:
        columns: Those that can be used.
        rejected: The others.
        fields: What became of every column and key.
        bounds: For each file the numbers of its first row and of the one behind its last.
    """

    columns: Columns
    rejected: tuple[Rejected, ...]
    fields: tuple[FieldFate, ...]
    bounds: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """How many can be used."""
        return len(self.columns.arrays["text_ends"])


Source = tuple[RowSource, Reading]
_ENOUGH_TO_SPREAD = 100_000  # rows, of some seconds
_NEVER = 2**31 - 1  # searches of young objects before one of all
_ENOUGH_REJECTED = 100_000  # rows without a usable one among them: the others will be no better


def read_all(sources: Sequence[Source], encoding: Encoding, folder: Path | None) -> ReadRows:
    """Read and encode the rows of files.

    Args:
        sources: The files, and how each is read.
        encoding: How rows become tokens.
        folder: For what is too much for memory; None to keep all in it.

    Raises:
        DataError: A file cannot be read.
        OSError: The folder cannot be written.
    """
    encoder = RowEncoder(encoding)
    written, bounds = encoder.begin(Writer(folder)), list[tuple[int, int]]()
    writer, rejected = written.writer, written.rejected
    with _undisturbed(), SideProcesses(encoder) as processes:
        for source, reading in sources:
            first = writer.rows
            for chunk in _chunks(source.path, reading):
                processes.write(chunk, written)
                writer.spill_if_large()
                if writer.rows >= _ENOUGH_TO_SPREAD and processes.can_spread:
                    processes.spread()
                if not writer.rows and len(rejected) >= _ENOUGH_REJECTED and source is sources[-1][0]:
                    break
            processes.finish(written)
            bounds.append((first, writer.rows))
    return ReadRows(writer.finished(), tuple(rejected), written.ledger.fates(), tuple(bounds))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave out Python's search of all objects for garbage: rows are many, and none of them is in a ring."""
    thresholds = gc.get_threshold()
    gc.set_threshold(*thresholds[:2], _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _chunks(name: str, reading: Reading) -> Iterator[list[RawRow | Rejected]]:
    """Yield the rows of a file, so many at a time that encoding them together pays; where that takes long, show it."""
    rows = read_rows(name, reading)
    with ExitStack() as shown:
        bar = shown.enter_context(_progress(name)) if _is_large(name) else None
        done = 0
        for most in chain((1, _ROWS_AT_ONCE), repeat(_ROWS_AT_ONCE)):  # one alone, from which those behind it are known
            chunk = list(islice(rows, most))
            yield chunk
            if len(chunk) < most:
                return
            done += len(chunk)
            if bar is None and most > 1:
                bar = shown.enter_context(_progress(name))
            if bar is not None:
                bar.update(done)


def _progress(name: str) -> AbstractContextManager[console.ProgressLine]:
    return console.progress(None, f"reading {shortened(name, _SHOWN_NAME)}")


def _is_large(name: str) -> bool:
    try:
        return os.stat(name).st_size >= _LARGE_BYTES
    except (OSError, ValueError):
        return False
