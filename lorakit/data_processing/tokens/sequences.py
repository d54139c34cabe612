"""Rows that lie in columns, as sequences of objects that are made when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from lorakit.data_processing.example import EncodedExample, Example
from lorakit.data_processing.tokens.columns import HAS_REASONING, IS_CUT, Columns, Writer, bounds_of
from lorakit.engine import Picture

Item = TypeVar("Item")


class _Selected(Sequence[Item]):
    """Items that are made when they are asked for.

    Args:
        columns: That they are made of.
        chosen: Their numbers in these; None for all.
    """

    _counted: str  # the column that has as many

    def __init__(self, columns: Columns, chosen: NDArray[Any] | None = None) -> None:
        self.columns = columns
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.columns.arrays[self._counted]) if self.chosen is None else len(self.chosen)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, place: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(place, slice):
            return tuple(self[number] for number in range(*place.indices(len(self))))
        number = range(len(self))[place]
        return self._made(number if self.chosen is None else int(self.chosen[number]))

    def __iter__(self) -> Iterator[Item]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_are_equal, self, other))

    __hash__ = None  # type: ignore[assignment]

    def numbers(self) -> NDArray[Any]:
        """Return the numbers of the items in the columns."""
        return np.arange(len(self)) if self.chosen is None else self.chosen

    def of(self, name: str) -> NDArray[Any]:
        """Return a column's numbers, one for each item."""
        column = self.columns.arrays[name]
        return column if self.chosen is None else column[self.chosen]

    def _made(self, number: int) -> Item:
        raise NotImplementedError


class Conversations(_Selected[Example]):
    """Rows as conversations."""

    _counted = "text_ends"

    def _made(self, number: int) -> Example:
        return self.columns.example(number)

    def origins(self, places: Iterable[int]) -> tuple[str, ...]:
        """Say where some of the rows stand."""
        numbers = self.numbers()
        return tuple(self.columns.origin(int(numbers[place])) for place in places)

    def reasons(self) -> NDArray[Any]:
        """Tell for each row whether its last answer has reasoning: [rows]."""
        return np.asarray(self.of("flags") & HAS_REASONING != 0)

    def cut(self) -> NDArray[Any]:
        """Tell for each row whether the beginning of its prompt is cut off: [rows]."""
        return np.asarray(self.of("flags") & IS_CUT != 0)


class Sequences(_Selected[EncodedExample]):
    """Rows as token ids."""

    _counted = "token_ends"

    def _made(self, number: int) -> EncodedExample:
        return self.columns.sequence(number)

    def lengths(self) -> NDArray[Any]:
        """Count the tokens of each: [sequences]."""
        lengths = np.diff(self.columns.arrays["token_ends"], prepend=0)
        return lengths if self.chosen is None else lengths[self.chosen]

    def targets(self) -> NDArray[Any]:
        """Count the tokens of each that carry loss, the first token aside: [sequences]."""
        ends, trained = self.columns.arrays["token_ends"], self.columns.arrays["trained"]
        starts = np.concatenate([[0], ends[:-1]])
        counted = np.add.reduceat(trained, starts, dtype=np.int64) - trained[starts]
        return np.asarray(counted if self.chosen is None else counted[self.chosen])

    def all_targets(self) -> int:
        """Count the tokens of all together that carry loss, as `targets` does."""
        if self.chosen is not None:
            return int(self.targets().sum())
        ends, trained = self.columns.arrays["token_ends"], self.columns.arrays["trained"]
        return int(np.count_nonzero(trained)) - int(trained[0]) - int(np.count_nonzero(trained[ends[:-1]]))

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures of all sequences."""
        if self.columns.pictures:
            for number in self.numbers().tolist():
                yield from self.columns.pictures.get(number, ((), ()))[0]

    def digest(self) -> str:
        """Return the SHA-256 of token ids, labels and the content of pictures."""
        digest = hashlib.sha256(self.lengths().astype(np.int64).tobytes())
        for name in ("ids", "trained"):
            for stretch in self._stretches(self.columns.arrays[name]):
                digest.update(np.ascontiguousarray(stretch).data)
        for picture in self.pictures():
            digest.update(repr((picture.content, picture.patch_rows, picture.patch_columns)).encode())
        return digest.hexdigest()

    def _stretches(self, column: NDArray[Any]) -> Iterator[NDArray[Any]]:
        if self.chosen is None:
            yield column
            return
        ends = self.columns.arrays["token_ends"]
        for number in self.chosen.tolist():
            start, end = bounds_of(ends, number)
            yield column[start:end]


def followed_by(first: Sequences, rows: Iterable[tuple[Example, EncodedExample]]) -> Sequences:
    """Return sequences with those of further rows, which have no pictures, behind them."""
    writer = Writer()
    for example, sequence in rows:
        writer.add(example, [sequence], is_cut=False)
    before, added = first.columns, writer.finished()
    shifts = {
        "token_ends": len(before.arrays["ids"]),
        "text_ends": len(before.arrays["texts"]),
        "rows": len(before.arrays["text_ends"]),
        "files": len(before.beginnings),
    }
    arrays = {
        name: np.concatenate([before.arrays[name], column + column.dtype.type(shifts.get(name, 0))])
        for name, column in added.arrays.items()
    }
    start = len(before.arrays["token_ends"])
    chosen = np.concatenate([first.numbers(), np.arange(start, start + writer.sequences)])
    return Sequences(Columns(arrays, before.beginnings + added.beginnings, before.pictures), chosen)


def _are_equal(one: object, other: object) -> bool:
    return one == other
