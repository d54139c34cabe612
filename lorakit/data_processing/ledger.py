"""What became of every field of a file: used and as what, left out as harmless, or not used.

Readers take fields from `Fields`; whatever they have not taken is left, and is named. So nothing is counted as used
that was not read.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lorakit.data_processing.example import shortened
from lorakit.data_processing.field_names import Judgement, harmless_beside, judged, judged_picture, normal, read_name
from lorakit.data_processing.picture_values import HOLDING, OF_PICTURES, held_picture, kind_of_picture

PICTURE = "\0picture"  # in place of the name of a field that holds one
_MOST_ALIKE = 1000  # accounts that are held


@dataclass
class Account:
    """What was used of one row, and what was left: places, such as ``messages[].weight``.

    Attributes:
        used: As what each place was used.
        left: Places that were not used, each with its name, or `PICTURE` where it holds one.
        paths: Those of them that name the file of a picture.
    """

    used: dict[str, str] = field(default_factory=dict)
    left: set[tuple[str, str]] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)

    def mean_pictures(self) -> None:
        """Take what names the files of pictures for pictures that should have been shown."""
        self.left = {(place, PICTURE if place in self.paths else name) for place, name in self.left}


def is_empty(value: Any) -> bool:
    """Tell a value that says nothing: null, no text, an empty list or object, and what is not a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, str):
        return not value or value.isspace()
    return isinstance(value, list | tuple | dict | bytes) and not value


class Fields:
    """The fields of one object of a row, under the names that readers know.

    Args:
        values: As the file has them.
        account: Of the row.
        place: Of the object in its row, such as ``messages[].``.
        renamed: What the user calls fields, and the names that these have for readers.
        ignored: Places of fields that are left out, so that no reader finds them.
    """

    __slots__ = ("_account", "_chosen", "_ignored", "_keys", "_place", "_taken", "values")

    def __init__(
        self,
        values: Mapping[str, Any],
        account: Account,
        place: str = "",
        renamed: Mapping[str, str] | None = None,
        ignored: frozenset[str] = frozenset(),
    ) -> None:
        self.values = values
        self._account = account
        self._place = place
        self._ignored = ignored
        self._taken: set[str] = set()
        self._keys: dict[str, str] = {}
        self._chosen = chosen = renamed or {}
        for key in values:
            if ignored and place + str(key) in ignored:
                continue
            name = chosen.get(key) or read_name(str(key))
            other = self._keys.setdefault(name, key)
            if other is not key and (key in chosen, not is_empty(values[key])) > (
                other in chosen,
                not is_empty(values[other]),
            ):
                self._keys[name] = key  # what the user names comes first, then what says something

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    def has(self, name: str) -> bool:
        """Whether a field is there and says something."""
        return name in self._keys and not is_empty(self.values[self._keys[name]])

    def key(self, name: str) -> str:
        """Return what the file calls a field."""
        return self._keys.get(name, name)

    def is_chosen(self, name: str) -> bool:
        """Whether the user has named the field that is this one, by another name than it has for readers."""
        return self._keys.get(name, name) != name and self._chosen.get(self._keys[name]) == name

    def take(self, name: str, purpose: str) -> Any:
        """Use a field; None where it is absent."""
        if name not in self._keys:
            return None
        key = self._keys[name]
        self._taken.add(key)
        if not is_empty(self.values[key]):
            self._account.used[self._place + str(key)] = purpose
        return self.values[key]

    def note(self, place: str, purpose: str) -> None:
        """Enter what became of something that is no field of its own."""
        self._account.used[place] = purpose

    def inner(self, values: Mapping[str, Any], place: str) -> Fields:
        """Return the fields of an object inside this one."""
        return Fields(values, self._account, f"{self._place}{place}.", ignored=self._ignored)

    def account_for_picture(self, value: Any, place: str) -> None:
        """Account for what stands in an object that holds or names a picture."""
        if isinstance(value, Mapping):
            inner = self.inner(value, place)
            is_held = held_picture(value)[0] is not None
            for key in OF_PICTURES:
                if is_held or key not in HOLDING:  # what stands there and is no picture is named
                    inner.take(read_name(key), "kind of part" if "type" in key else "picture")
            inner.close()

    def close(self, is_said: Callable[[str, str], bool] | None = None) -> None:
        """Account for what was not taken. The same value under two names counts as one.

        Args:
            is_said: Tells of a field that was not taken, by name and text, whether what was taken says the same.
        """
        for key, value in self.values.items():
            if key in self._taken or is_empty(value):
                continue
            if self._ignored and self._place + str(key) in self._ignored:
                self._account.left.add((self._place + str(key), str(key)))
                continue
            twin = self._keys.get(read_name(str(key)))
            if twin is not None and twin in self._taken and self.values[twin] == value:
                continue
            if (picture := kind_of_picture(value)) is not None:
                self._account.left.add((self._place + str(key), PICTURE if picture == "bytes" else str(key)))
                if picture == "path":
                    self._account.paths.add(self._place + str(key))
            elif self._is_harmless_here(key):
                self._account.used[self._place + str(key)] = "left out: says nothing of question and answer"
            elif is_said is not None and isinstance(value, str) and is_said(str(key), value):
                self._account.used[self._place + str(key)] = "says what the conversation says"
            else:
                self._account.left.add((self._place + str(key), str(key)))

    def _is_harmless_here(self, key: Any) -> bool:
        """Tell a field that says nothing because of what stands beside it."""
        beside = harmless_beside(str(key))
        return beside is not None and any(normal(str(other)) == beside for other in self.values)


@dataclass(frozen=True)
class FieldFate:
    """What became of one field.

    Attributes:
        place: ``context``, or ``messages[].weight``.
        rows: How many rows have something in it.
        fate: As what it was used, or why not.
        remedy: What to do about it; empty where nothing needs to be done.
        is_meant: Whether it carries meaning, and training must not go on without it.
    """

    place: str
    rows: int
    fate: str
    remedy: str = ""
    is_meant: bool = False


@dataclass
class Ledger:
    """The fields of all rows of a file that are used.

    Attributes:
        ignored: Names of fields that the settings leave out.
    """

    ignored: frozenset[str] = frozenset()
    _used: Counter[tuple[str, str]] = field(default_factory=Counter)
    _left: Counter[tuple[str, str]] = field(default_factory=Counter)
    _alike: dict[int, tuple[Account, list[int]]] = field(default_factory=dict)

    def add_one(self, account: Account) -> None:
        """Enter a row; many may have one account together, which is added up only once."""
        found = self._alike.get(id(account))
        if found is None:
            self.add(account, 0)
            found = self._alike[id(account)] = account, [0]
        found[1][0] += 1
        if len(self._alike) > _MOST_ALIKE:
            self.settle()

    def add(self, account: Account, rows: int = 1) -> None:
        """Enter rows of which the same is true."""
        for use in account.used.items():
            self._used[use] += rows
        for left in sorted(account.left):
            self._left[left] += rows

    def settle(self) -> None:
        """Add up the rows that are alike."""
        alike, self._alike = self._alike, {}
        for account, [rows] in alike.values():
            self.add(account, rows)

    def extend(self, other: Ledger) -> None:
        """Enter the rows of another one, which come after these."""
        other.settle()
        for mine, theirs in ((self._used, other._used), (self._left, other._left)):
            for entry, rows in theirs.items():
                mine[entry] += rows

    def fates(self) -> tuple[FieldFate, ...]:
        """Return what became of every field: the used ones first."""
        self.settle()
        used = [FieldFate(place, rows, purpose) for (place, purpose), rows in self._used.items()]
        return (*used, *(self._left_out(place, name, rows) for (place, name), rows in self._left.items()))

    def _left_out(self, place: str, name: str, rows: int) -> FieldFate:
        judgement = judged_picture(place) if name == PICTURE else judged(name, self.ignored)
        if judgement.fate != "ignored" and place in self.ignored:
            judgement = Judgement("ignored")
        words = {
            "ignored": "left out, as ignore_fields says",
            "harmless": "left out: says nothing of question and answer",
            "meant": "not used, though it carries meaning",
            "unknown": "not used",
        }
        return FieldFate(shortened(place), rows, words[judgement.fate], judgement.remedy, judgement.fate == "meant")


def field_lines(fates: tuple[FieldFate, ...]) -> list[str]:
    """Name the fields that are not used and should perhaps be: place, rows, remedy."""
    return [
        f'"{fate.place}" ({fate.rows} row{"" if fate.rows == 1 else "s"}) is {fate.fate}; {fate.remedy}'
        for fate in fates
        if fate.remedy
    ]


def parsed_cell(value: Any) -> Any:
    """Read a list or an object that a table keeps as text: JSON, or as Python writes it; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    import ast

    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value
