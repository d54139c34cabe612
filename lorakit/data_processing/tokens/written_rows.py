"""Chunks of raw rows become columns: those of known shapes at once, all others one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lorakit.data_processing.example import Example, Rejected, UnusableError
from lorakit.data_processing.ledger import Account, Ledger
from lorakit.data_processing.raw import RawRow
from lorakit.data_processing.shapes.formats import RowRules, read_example
from lorakit.data_processing.templates.chat_format import ChatFormat
from lorakit.data_processing.tokens.columns import Writer, mask_of
from lorakit.data_processing.tokens.encoding import EncodedRow, encode_rows
from lorakit.data_processing.tokens.quick_rows import QuickRow, QuickRows

Outcome = QuickRow | Rejected | tuple[Example, EncodedRow]


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


@dataclass
class WrittenRows:
    """What has become of rows so far.

    Attributes:
        writer: Of those that can be used.
        ledger: Of their fields.
        rejected: The others.
    """

    writer: Writer
    ledger: Ledger
    rejected: list[Rejected] = field(default_factory=list)

    def extend(self, other: WrittenRows) -> None:
        """Enter rows that come after these."""
        self.writer.extend(other.writer)
        self.ledger.extend(other.ledger)
        self.rejected += other.rejected


class RowEncoder:
    """Encodes chunks of rows, and learns their shapes.

    Args:
        encoding: How rows become tokens.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        is_quick = encoding.trains_reasoning and encoding.chat_format.cuts_texts
        self._quick = QuickRows(encoding.rules, encoding.chat_format, encoding.max_length) if is_quick else None

    def begin(self, writer: Writer) -> WrittenRows:
        """Return a place for rows."""
        return WrittenRows(writer, Ledger(self.encoding.rules.ignored))

    def write(self, chunk: Sequence[RawRow | Rejected], written: WrittenRows) -> None:
        """Encode rows and enter what became of each, in their order."""
        for outcome, account in self._outcomes(chunk):
            if account is not None:
                written.ledger.add_one(account)
            if isinstance(outcome, QuickRow):
                written.writer.add_quick(outcome)
            elif isinstance(outcome, Rejected):
                written.rejected.append(outcome)
            else:
                example, row = outcome
                written.writer.add(example, row.sequences, row.is_cut)

    def _outcomes(self, chunk: Sequence[RawRow | Rejected]) -> Iterator[tuple[Outcome, Account | None]]:
        """Yield what became of each row, and of its fields where it could be read."""
        encoding, quick = self.encoding, self._quick
        known = quick.encode(chunk) if quick is not None else [None] * len(chunk)
        left = [row for row, found in zip(chunk, known, strict=True) if found is None]
        read = [_read(row, encoding.rules) for row in left]
        usable = [example for example, _ in read if not isinstance(example, Rejected)]
        encoded = iter(encode_rows(usable, encoding.chat_format, encoding.max_length, encoding.trains_reasoning))
        others = iter(zip(left, read, strict=True))
        for found in known:
            if found is not None:
                yield found, found.account
                continue
            row, (example, account) = next(others)
            if isinstance(example, Rejected):
                yield example, None
                continue
            outcome = next(encoded)
            if isinstance(outcome, Rejected):
                yield outcome, account
                continue
            if quick is not None and isinstance(row, RawRow) and not outcome.is_cut:
                quick.learn(
                    row, example, account, [(one.input_ids.tobytes(), mask_of(one)) for one in outcome.sequences]
                )
            yield (example, outcome), account


def _read(row: RawRow | Rejected, rules: RowRules) -> tuple[Example | Rejected, Account]:
    account = Account()
    if isinstance(row, Rejected):
        return row, account
    try:
        return read_example(row, rules, account), account
    except UnusableError as error:
        return Rejected(row.origin, str(error), error.hint), account
