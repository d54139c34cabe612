"""Rows as columns of numbers: a few bytes each in memory, or none where the columns lie in files.

An object for each row and a list for each of its tokens would take kilobytes. Here all token ids are one array;
`sequences.py` makes the objects of a row when they are asked for.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from json.encoder import encode_basestring as _json_text
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from lorakit.data_processing.example import EncodedExample, Example, Message, ToolCall
from lorakit.data_processing.tokens.quick_rows import QuickRow
from lorakit.engine import IGNORED_LABEL, Picture

# Each with the type of its numbers; the ends are places in the column before.
_TYPES = {
    "ids": np.int32,  # [tokens]
    "trained": np.uint8,  # [tokens]
    "token_ends": np.int64,  # [sequences]
    "rows": np.int32,  # [sequences]
    "texts": np.uint8,  # conversations as JSON, UTF-8
    "text_ends": np.int64,  # [rows]
    "files": np.int32,  # [rows], the beginning of the origin
    "numbers": np.int64,  # [rows], its end
    "wholes": np.uint64,  # [rows], a digest of the conversation
    "questions": np.uint64,  # [rows], of all but the last answer
    "asked": np.uint64,  # [rows], of the first question, spaces and case aside
    "flags": np.uint8,  # [rows]
}
HAS_REASONING, IS_CUT = 1, 2
_SPILLED_BYTES = 64_000_000
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_LEFT_OUT = ',{"is_trained":false}'


@dataclass(frozen=True)
class Columns:
    """All rows of one or several files.

    Attributes:
        arrays: By name, see `_TYPES`.
        beginnings: Of origins.
        pictures: Of the sequences that have some, with the places of their first tokens.
    """

    arrays: dict[str, NDArray[Any]]
    beginnings: tuple[str, ...]
    pictures: dict[int, tuple[tuple[Picture, ...], tuple[int, ...]]] = field(default_factory=dict)

    def origin(self, row: int) -> str:
        """Say where a row stands."""
        number = int(self.arrays["numbers"][row])
        beginning = self.beginnings[int(self.arrays["files"][row])]
        return beginning if number < 0 else f"{beginning} {number}"

    def example(self, row: int) -> Example:
        """Return a row as a conversation."""
        start, end = bounds_of(self.arrays["text_ends"], row)
        lines = self.arrays["texts"][start:end].tobytes().split(b"\n")
        return Example(tuple(_message(turn) for line in lines for turn in json.loads(line)), self.origin(row))

    def sequence(self, number: int) -> EncodedExample:
        """Return a sequence of tokens."""
        start, end = bounds_of(self.arrays["token_ends"], number)
        ids, trained = self.arrays["ids"][start:end], self.arrays["trained"][start:end]
        labels = np.where(trained, ids, np.int32(IGNORED_LABEL))
        pictures, starts = self.pictures.get(number, ((), ()))
        origin = self.origin(int(self.arrays["rows"][number]))
        return EncodedExample(array("i", ids.tobytes()), array("i", labels.tobytes()), origin, pictures, starts)


class Writer:
    """Columns that are being written: in memory, and from so many bytes on into a folder.

    Args:
        folder: For what is too much for memory; None to keep everything in it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._columns = {name: _empty(name) for name in _TYPES}
        self._written = dict.fromkeys(_TYPES, 0)
        self._beginnings: dict[str, int] = {}
        self._pictures: dict[int, tuple[tuple[Picture, ...], tuple[int, ...]]] = {}
        self.rows = self.sequences = 0
        self._tokens = self._text_bytes = 0

    def add(self, example: Example, sequences: Iterable[EncodedExample], is_cut: bool) -> None:
        """Write a row."""
        turns = [_json(_written(message)) for message in example.messages]
        first = next((message for message in example.messages if message.role == "user"), None)
        asked = "" if first is None else "\n".join([_normal(first.content), *first.images])
        flags = HAS_REASONING * example.messages[-1].reasons | IS_CUT * is_cut
        self._add_row(turns, asked, example.origin, flags)
        for sequence in sequences:
            if sequence.pictures:
                self._pictures[self.sequences] = sequence.pictures, sequence.picture_starts
            self._add_sequence(sequence.input_ids.tobytes(), mask_of(sequence))

    def add_quick(self, row: QuickRow) -> None:
        """Write a row of a known shape."""
        turns = [f'["{role}",{_json_text(text)}{_LEFT_OUT if is_left else ""}]' for role, text, is_left in row.messages]
        asked = next((text for role, text, _ in row.messages if role == "user"), "")
        self._add_row(turns, _normal(asked), row.origin, 0)
        for ids, trained in row.sequences:
            self._add_sequence(ids, trained)

    def extend(self, other: Writer) -> None:
        """Write all rows of another one, which has no folder."""
        files = [self._file(beginning) for beginning in other._beginnings]
        shifted = {
            "token_ends": self._tokens,
            "text_ends": self._text_bytes,
            "rows": self.rows,
        }
        for name, column in other._columns.items():
            own: NDArray[Any] = np.frombuffer(column, _TYPES[name])
            if name == "files":
                own = np.array(files, np.int32)[own]
            elif name in shifted:
                own = own + own.dtype.type(shifted[name])
            self._columns[name].frombytes(own.tobytes())
        self._pictures |= {self.sequences + number: found for number, found in other._pictures.items()}
        self.rows, self.sequences = self.rows + other.rows, self.sequences + other.sequences
        self._tokens, self._text_bytes = self._tokens + other._tokens, self._text_bytes + other._text_bytes

    def finished(self) -> Columns:
        """Return the columns; where some are in the folder, all are."""
        if any(self._written.values()):
            self.spill()
        arrays = {name: np.frombuffer(column, _TYPES[name]) for name, column in self._columns.items()}
        if any(self._written.values()):
            assert self._folder is not None
            arrays = read_arrays(self._folder)
        return Columns(arrays, tuple(self._beginnings), self._pictures)

    @property
    def has_pictures(self) -> bool:
        """Whether a row has one."""
        return bool(self._pictures)

    def spill_if_large(self) -> None:
        """Write what there is into the folder if it is too much for memory."""
        if (
            self._folder is not None
            and sum(len(column) * column.itemsize for column in self._columns.values()) >= _SPILLED_BYTES
        ):
            self.spill()

    def spill(self) -> None:
        """Write what there is into the folder.

        Raises:
            OSError: It cannot be written.
        """
        assert self._folder is not None
        for name, column in self._columns.items():
            with open(self._folder / f"{name}.bin", "ab") as file:
                file.write(column)
            self._written[name] += len(column)
            self._columns[name] = _empty(name)

    def _add_row(self, turns: list[str], asked: str, origin: str, flags: int) -> None:
        question = f"[{','.join(turns[:-1])}]".encode()
        text = b"%b\n[%b]" % (question, turns[-1].encode())
        self._text_bytes += len(text)
        beginning, _, number = origin.rpartition(" ")
        if not (beginning and number.isascii() and number.isdigit() and len(number) < 18 and number[0] != "0"):
            beginning, number = origin, "-1"
        file = self._file(beginning)
        columns = self._columns
        columns["texts"].frombytes(text)
        columns["text_ends"].append(self._text_bytes)
        columns["files"].append(file)
        columns["numbers"].append(int(number))
        columns["wholes"].append(_digest(text))
        columns["questions"].append(_digest(question))
        columns["asked"].append(_digest(asked.encode("utf-8", "surrogatepass")))
        columns["flags"].append(flags)
        self.rows += 1

    def _file(self, beginning: str) -> int:
        return self._beginnings.setdefault(beginning, len(self._beginnings))

    def _add_sequence(self, ids: bytes, trained: bytes) -> None:
        self._tokens += len(trained)
        columns = self._columns
        columns["ids"].frombytes(ids)
        columns["trained"].frombytes(trained)
        columns["token_ends"].append(self._tokens)
        columns["rows"].append(self.rows - 1)
        self.sequences += 1


def mask_of(sequence: EncodedExample) -> bytes:
    """Tell for each token of a sequence whether it carries loss, in a byte."""
    mask: NDArray[np.bool_] = np.frombuffer(sequence.labels, np.int32) != IGNORED_LABEL
    return mask.tobytes()


def read_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Map the columns that lie in a folder.

    Raises:
        OSError: One is missing.
        ValueError: One is damaged.
    """
    return {name: np.memmap(folder / f"{name}.bin", kind, "r") for name, kind in _TYPES.items()}


def bounds_of(ends: NDArray[Any], number: int) -> tuple[int, int]:
    """Return the first place of an item's, and the one after its last."""
    return int(ends[number - 1]) if number else 0, int(ends[number])


def _empty(name: str) -> array[int]:
    return array(np.dtype(_TYPES[name]).char)


def _digest(content: bytes) -> int:
    return int(xxhash.xxh3_64_intdigest(content))


def _normal(question: str) -> str:
    return " ".join(question.casefold().split())


_PLAIN = asdict(Message("user", ""))


def _written(message: Message) -> list[Any]:
    """Write a turn as JSON can have it: role, text, and whatever else it has."""
    more = {one.name: getattr(message, one.name) for one in fields(Message)[2:]}
    kept = {name: value for name, value in more.items() if value != _PLAIN[name]}
    if message.tool_calls:
        kept["tool_calls"] = [asdict(call) for call in message.tool_calls]
    return [message.role, message.content, kept] if kept else [message.role, message.content]


def _message(turn: list[Any]) -> Message:
    role, content, *more = turn
    kept = dict(more[0]) if more else {}
    if "images" in kept:
        kept["images"] = tuple(kept["images"])
    if "tool_calls" in kept:
        kept["tool_calls"] = tuple(ToolCall(**call) for call in kept["tool_calls"])
    return Message(role, content, **kept)
