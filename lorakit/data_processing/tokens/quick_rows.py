"""Rows like one that was read before, from their texts to token ids without a look at each turn.

Rows of one shape (the same fields, the same roles, the same fields empty) are read alike, as long as their texts are
plain: what readers and templates look for in a text (tags, lists, control tokens) is not in them. So the first row of a
shape is read with marks in place of its texts, by the readers themselves, and what becomes of the marks is what becomes
of the texts of all others. What is learnt is held to the first row's own tokens; rows that are not plain, too long or
of a shape that cannot be learnt are read one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.data_processing.calls.tool_calls import PREAMBLES
from lorakit.data_processing.example import Example, Message, Rejected, UnusableError
from lorakit.data_processing.ledger import Account
from lorakit.data_processing.raw import MOST_CHARACTERS, RawRow
from lorakit.data_processing.reasoning import OTHER_OPENINGS
from lorakit.data_processing.shapes.dialogues import MARKS
from lorakit.data_processing.shapes.formats import RowRules, read_example
from lorakit.data_processing.templates.chat_format import ChatFormat
from lorakit.data_processing.templates.text_encoding import GUARD
from lorakit.data_processing.templates.written_parts import ConversationParts, Part
from lorakit.data_processing.templates.written_shapes import Notes, Pieces, filled
from lorakit.data_processing.tokens.row_shape import is_opaque, marked, shape_of

_MOST_SHAPES = 1000
_MARK = re.compile(r"(lorakitfield\d\d\dx)")
_LIST_BEGINS = re.compile(r"(?:^\s*|\n[^\S\n]*)[\[{]")
_TELLING = (GUARD, "think>", *OTHER_OPENINGS, "SYSTEM: ", *PREAMBLES, *MARKS, "lorakit")
_ID_BYTES = 4


@dataclass(frozen=True)
class QuickRow:
    """A row as token ids.

    Attributes:
        messages: The conversation, role and text of each turn, and whether it is an answer without loss.
        sequences: Token ids as 32-bit integers, and for each token whether it carries loss.
        origin: Where the row stands.
        account: What became of its fields; rows that were read alike have one together.
    """

    messages: tuple[tuple[str, str, bool], ...]
    sequences: tuple[tuple[bytes, bytes], ...]
    origin: str
    account: Account

    @property
    def example(self) -> Example:
        """The conversation."""
        return Example(
            tuple(
                Message(role, text, is_trained=False if is_left_out else None)  # type: ignore[arg-type]
                for role, text, is_left_out in self.messages
            ),
            self.origin,
        )


@dataclass(frozen=True)
class _Stretch:
    """Part of a sequence: tokens that are always the same, or the text with this number."""

    ids: bytes | int
    mask: bytes  # of one token


@dataclass
class _Plan:
    """What becomes of rows of one shape.

    Attributes:
        account: Of one of them.
        turns: Role, text, and whether it is an answer without loss.
        notes: What must be true of the text of a turn, by its number.
        texts: That are encoded, of the turns' texts.
        sequences: Of tokens.
        seams: Numbers of a text and of the two that must have its tokens together.
        equal: Numbers of the texts of a row that must be equal, as a field may be a copy of another one.
    """

    account: Account
    turns: tuple[tuple[str, Pieces, bool], ...]
    notes: tuple[tuple[int, Notes], ...]
    texts: tuple[Pieces, ...]
    sequences: tuple[tuple[_Stretch, ...], ...]
    seams: tuple[tuple[int, int, int], ...]
    equal: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Waiting:
    plan: _Plan
    turns: list[str]
    first: int  # of its texts among all that are encoded together


class QuickRows:
    """Reads and encodes rows of known shapes.

    Args:
        rules: How rows are read.
        chat_format: Of the model's tokenizer.
        max_length: In tokens.
    """

    def __init__(self, rules: RowRules, chat_format: ChatFormat, max_length: int) -> None:
        self._rules = rules
        self._chat_format = chat_format
        self._most_bytes = max_length * _ID_BYTES
        self._plans: dict[Any, _Plan | None] = {}
        self._odd = chat_format.odd_characters

    def encode(self, rows: Sequence[RawRow | Rejected]) -> list[QuickRow | None]:
        """Read and encode rows; None for those that must be read one by one."""
        waiting: list[_Waiting | None] = []
        texts: list[str] = []
        for row in rows:
            found = None if isinstance(row, Rejected) else self._planned(row)
            if found is None or sum(map(len, found[1])) > MOST_CHARACTERS:
                waiting.append(None)
                continue
            plan, own = found
            waiting.append(_Waiting(plan, own, len(texts)))
            texts += [filled(pieces, own) for pieces in plan.texts]
        ids = self._chat_format.encode_between(texts) if texts else []
        return [
            None if one is None or isinstance(row, Rejected) else self._finished(one, ids, row.origin)
            for row, one in zip(rows, waiting, strict=True)
        ]

    def learn(self, row: RawRow, example: Example, account: Account, sequences: Sequence[tuple[bytes, bytes]]) -> None:
        """Learn from a row that was read by itself what becomes of those like it.

        Args:
            row: As its file has it.
            example: What was read.
            account: What became of its fields.
            sequences: What became of it.
        """
        shape = shape_of(row.fields)
        if shape is None or shape[0] in self._plans or len(self._plans) >= _MOST_SHAPES or not self._is_plain(shape[1]):
            return
        for equal in ((), _equal(shape[1])):
            plan = self._plans[shape[0]] = self._learnt(row.fields, len(shape[1]), equal)
            [again] = self.encode([row]) if plan is not None else [None]
            if again is not None and _is_same(again, example, account, sequences):
                return
            self._plans[shape[0]] = None

    def _planned(self, row: RawRow) -> tuple[_Plan, list[str]] | None:
        shape = shape_of(row.fields)
        if shape is None:
            return None
        key, contents = shape
        plan = self._plans.get(key)
        if plan is None or not self._is_plain(contents) or any(contents[a] != contents[b] for a, b in plan.equal):
            return None
        texts = [filled(pieces, contents) for _, pieces, _ in plan.turns]
        if not all(notes.hold_for(texts[number]) for number, notes in plan.notes):
            return None
        return plan, texts

    def _is_plain(self, contents: Sequence[str]) -> bool:
        """Tell whether there is nothing in texts that a reader or a template could look for."""
        whole = "\n".join(contents)
        if any(odd in whole for odd in self._odd) or any(telling in whole for telling in _TELLING):
            return False
        if ("[" in whole or "{" in whole) and _LIST_BEGINS.search(whole):
            return False
        try:
            whole.encode()
        except UnicodeEncodeError:  # half a character
            return False
        return True

    def _finished(self, one: _Waiting, ids: Sequence[bytes], origin: str) -> QuickRow | None:
        plan, first = one.plan, one.first
        if any(ids[first + whole] != ids[first + a] + ids[first + b] for whole, a, b in plan.seams):
            return None
        sequences = []
        for stretches in plan.sequences:
            found = [ids[first + one.ids] if isinstance(one.ids, int) else one.ids for one in stretches]
            joined = b"".join(found)
            if len(joined) > self._most_bytes:
                return None
            masks = [one.mask * (len(own) // _ID_BYTES) for one, own in zip(stretches, found, strict=True)]
            sequences.append((joined, b"".join(masks)))
        messages = [(role, text, is_left) for (role, _, is_left), text in zip(plan.turns, one.turns, strict=True)]
        return QuickRow(tuple(messages), tuple(sequences), origin, plan.account)

    def _learnt(self, fields: Mapping[str, Any], count: int, equal: tuple[tuple[int, int], ...]) -> _Plan | None:
        if count > 999:
            return None
        same = dict(equal)
        marks = iter([f"lorakitfield{same.get(number, number):03d}x" for number in range(count)])
        account = Account()
        try:
            example = read_example(RawRow(marked(fields, marks), ""), self._rules, account)
        except UnusableError:
            return None
        if not all(map(_is_text_alone, example.messages)):
            return None
        if any(is_opaque(fields[name]) for name in fields if name in account.used):
            return None
        if account.left and self._rules.takes_pictures:  # what is left may name a picture in one row and not in another
            return None
        turns = tuple(
            (message.role, _pieces(message.content), message.is_trained is False) for message in example.messages
        )
        own = "\n".join(piece for _, pieces, _ in turns for piece in pieces if isinstance(piece, str))
        parts = self._chat_format.parts(example.messages) if self._is_plain([own]) else None
        return None if parts is None else self._plan(account, turns, parts, equal)

    def _plan(
        self,
        account: Account,
        turns: tuple[tuple[str, Pieces, bool], ...],
        parts: ConversationParts,
        equal: tuple[tuple[int, int], ...],
    ) -> _Plan:
        texts: dict[Pieces, int] = {}

        def number(pieces: Pieces) -> int:
            return texts.setdefault(pieces, len(texts))

        def stretch(part: Part) -> _Stretch:
            ids, mask = self._chat_format.atom_ids(part.atom), b"\1" if part.is_trained else b"\0"
            if ids is None:
                assert not isinstance(part.atom, str)
                return _Stretch(number(part.atom), mask)
            return _Stretch(ids, mask)

        sequences = tuple(_joined(map(stretch, one)) for one in parts.sequences)
        seams = tuple((number(whole), number(first), number(second)) for whole, first, second in parts.seams)
        return _Plan(account, turns, parts.notes, tuple(texts), sequences, seams, equal)


def _equal(contents: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pair each text that an earlier one repeats with that."""
    first: dict[str, int] = {}
    pairs = ((number, first.setdefault(text, number)) for number, text in enumerate(contents))
    return tuple((number, earlier) for number, earlier in pairs if number != earlier)


def _is_same(row: QuickRow, example: Example, account: Account, sequences: Sequence[tuple[bytes, bytes]]) -> bool:
    return row.example == example and row.account == account and row.sequences == tuple(sequences)


def _joined(stretches: Iterable[_Stretch]) -> tuple[_Stretch, ...]:
    """Make one stretch of tokens that always stand side by side."""
    joined: list[_Stretch] = []
    for now in stretches:
        before = joined[-1] if joined else None
        if before and isinstance(before.ids, bytes) and isinstance(now.ids, bytes) and before.mask == now.mask:
            joined[-1] = _Stretch(before.ids + now.ids, now.mask)
        else:
            joined.append(now)
    return tuple(joined)


def _is_text_alone(message: Message) -> bool:
    return message.role in ("system", "user", "assistant") and message == Message(
        message.role, message.content, is_trained=message.is_trained
    )


def _pieces(text: str) -> Pieces:
    parts = _MARK.split(text)
    return tuple(int(part[-4:-1]) if place % 2 else part for place, part in enumerate(parts) if place % 2 or part)
