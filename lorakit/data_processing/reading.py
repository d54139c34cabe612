"""Files of rows, read and encoded into columns, with the account of what became of every row and field."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path

from lorakit import console
from lorakit.config.settings import RowSource
from lorakit.data_processing.chat_format import ChatFormat
from lorakit.data_processing.columns import Columns, Writer, mask_of
from lorakit.data_processing.encoding import EncodedRow, encode_rows
from lorakit.data_processing.example import Example, Rejected, shortened
from lorakit.data_processing.files import Reading, read_rows
from lorakit.data_processing.formats import RowRules, to_example
from lorakit.data_processing.ledger import FieldFate, Ledger
from lorakit.data_processing.quick_rows import QuickRow, QuickRows
from lorakit.data_processing.raw import RawRow

_ROWS_AT_ONCE = 1000
_SHOWN_NAME = 40
_LARGE_BYTES = 20_000_000  # of which a second or more goes by before the first row


@dataclass(frozen=True)
class Encoding:
    """How rows become tokens.

    Attributes:
        rules: How they are read.
        chat_format: Of the model's tokenizer.
        max_length: In tokens.
        trains_reasoning: Whether the reasoning of answers carries loss.
    """

    rules: RowRules
    chat_format: ChatFormat
    max_length: int
    trains_reasoning: bool


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
    ledger = Ledger(encoding.rules.ignored)
    writer, rejected, bounds = Writer(folder), list[Rejected](), list[tuple[int, int]]()
    quick = QuickRows(encoding.rules, encoding.chat_format, encoding.max_length) if _may_be_quick(encoding) else None
    for source, reading in sources:
        first = writer.rows
        for chunk in _chunks(source.path, reading):
            for outcome in _outcomes(chunk, encoding, quick, ledger):
                if isinstance(outcome, QuickRow):
                    writer.add_quick(outcome)
                elif isinstance(outcome, Rejected):
                    rejected.append(outcome)
                else:
                    example, row = outcome
                    writer.add(example, row.sequences, row.is_cut)
            writer.spill_if_large()
            if not writer.rows and len(rejected) >= _ENOUGH_REJECTED and source is sources[-1][0]:
                break
        bounds.append((first, writer.rows))
    if quick is not None:
        quick.account_for(ledger)
    return ReadRows(writer.finished(), tuple(rejected), ledger.fates(), tuple(bounds))


def _may_be_quick(encoding: Encoding) -> bool:
    return encoding.trains_reasoning and encoding.chat_format.cuts_texts


def _outcomes(
    chunk: Sequence[RawRow | Rejected], encoding: Encoding, quick: QuickRows | None, ledger: Ledger
) -> Iterator[QuickRow | Rejected | tuple[Example, EncodedRow]]:
    """Yield what became of each row: first those of known shapes are encoded, then all others together."""
    known = quick.encode(chunk) if quick is not None else [None] * len(chunk)
    left = [row for row, found in zip(chunk, known, strict=True) if found is None]
    read = [row if isinstance(row, Rejected) else to_example(row, encoding.rules, ledger) for row in left]
    usable = [example for example in read if not isinstance(example, Rejected)]
    encoded = iter(encode_rows(usable, encoding.chat_format, encoding.max_length, encoding.trains_reasoning))
    others = iter(zip(left, read, strict=True))
    for found in known:
        if found is not None:
            yield found
            continue
        row, example = next(others)
        if isinstance(example, Rejected):
            yield example
            continue
        outcome = next(encoded)
        if isinstance(outcome, Rejected):
            yield outcome
            continue
        if quick is not None and isinstance(row, RawRow) and not outcome.is_cut:
            quick.learn(row, example, [(one.input_ids.tobytes(), mask_of(one)) for one in outcome.sequences])
        yield example, outcome


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
