"""Rows in JSON and JSON Lines, and in what people write by hand or by program that is nearly so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lorakit import console
from lorakit.data_processing.example import Rejected, shortened
from lorakit.data_processing.field_names import judged, read_name
from lorakit.data_processing.ledger import is_empty
from lorakit.data_processing.raw import RawRow, twice
from lorakit.data_processing.shapes.turns import is_list_of_texts
from lorakit.errors import DataError

_CONTAINERS = ("data", "rows", "examples", "train")  # {"data": [...]} around the list
# A string, to the end of the text where nothing ends it; or a comma that nothing follows.
_TRAILING_COMMA = re.compile(r'"(?:[^"\\]|\\.)*+"?|,(?=\s*[\]}])', re.DOTALL)


def read_json_text(text: str, name: str) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a text that begins with a bracket or a brace.

    Raises:
        DataError: It is one document, and broken.
    """
    start = text.lstrip()
    first_line = start.split("\n", 1)[0]
    if start[0] == "[" or (_is_json(first_line) and "\n" not in start.strip()):
        yield from _read_document(text, name)
    elif _is_json(first_line.rstrip().removesuffix(",")):
        yield from _read_lines(text, name)
    elif (document := _parsed_or_none(start)) is not None:
        yield from _rows_of(document, name)
    else:
        yield from _read_objects(text, name)


class WrittenNumber(float):
    """A number with a fraction that remembers how it was written: 1.10 is the text of an answer, 1.1 another one."""

    written: str

    def __new__(cls, written: str) -> WrittenNumber:
        """Read the number."""
        number = super().__new__(cls, written)
        number.written = written
        return number

    def __str__(self) -> str:
        return self.written


@dataclass(frozen=True)
class _Broken:
    """A JSON object that cannot be used; it must not take the rows around it along."""

    reason: str


def _tolerant(pairs: list[tuple[str, Any]]) -> Any:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else _Broken(f'"{twice([key for key, _ in pairs])}" stands twice')


_DECODER = json.JSONDecoder(object_pairs_hook=_tolerant, parse_float=WrittenNumber)


# What people type where JSON wants a mark of ASCII, and what that is.
_MEANT_MARKS = {"“": '"', "”": '"', "＂": '"', "‘": '"', "’": '"', "'": '"', "，": ",", "、": ",", "：": ":"}
_MEANT_MARKS |= {"｛": "{", "｝": "}", "［": "[", "］": "]", "【": "[", "】": "]"}


class _NotJsonError(ValueError):
    """The text is not JSON; ``line`` and ``column`` say where, if that is known, ``found`` what stands there."""

    def __init__(self, reason: str, line: int | None = None, column: int | None = None, found: str = "") -> None:
        super().__init__(reason)
        self.line = line
        self.column = column
        self.found = found

    @property
    def hint(self) -> str:
        """The remedy."""
        if self.line is None:
            return "write a list of rows"
        if (meant := _MEANT_MARKS.get(self.found)) is not None:
            return f"JSON takes no {self.found} there: write {meant}"
        return "is the file complete? check the place named"


def _parse(text: str) -> Any:
    """Read JSON; commas that nothing follows are passed over."""
    try:
        return _decoded(text)
    except _NotJsonError:
        mended = _TRAILING_COMMA.sub(lambda found: "" if found[0] == "," else found[0], text.rstrip().removesuffix(","))
        if mended == text:
            raise
        try:
            return _decoded(mended)
        except _NotJsonError:
            pass
        raise


def _decoded(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        found = text[error.pos : error.pos + 1]
        raise _NotJsonError(f"is not valid JSON ({error.msg})", error.lineno, error.colno, found) from error
    except RecursionError as error:
        raise _NotJsonError("is nested too deeply") from error
    except ValueError as error:  # Python's own limit on the digits of a whole number
        raise _NotJsonError("holds a number of thousands of digits") from error


def _is_json(text: str) -> bool:
    return _parsed_or_none(text) is not None


def _parsed_or_none(text: str) -> Any:
    try:
        return _parse(text)
    except _NotJsonError:
        return None


def _read_document(text: str, name: str) -> Iterator[RawRow | Rejected]:
    try:
        document = _parse(text)
    except _NotJsonError as error:
        place = name if error.line is None else f"{name} line {error.line} column {error.column}"
        raise DataError(f"{place}: {error}", error.hint) from error
    yield from _rows_of(document, name)


def _rows_of(document: Any, name: str) -> Iterator[RawRow | Rejected]:
    if isinstance(document, dict):
        container = next((key for key in _CONTAINERS if _holds_rows(document.get(key))), None)
        if container is not None:
            _account_for(document, container, name)
        document = document[container] if container else [document]
    if isinstance(document, _Broken):
        raise DataError(f"{name}: {document.reason}", "keep one of the two")
    if not isinstance(document, list):
        raise DataError(f"{name}: is not a list of rows", 'write [{"text": "question", "target": "answer"}, ...]')
    for number, fields in enumerate(document, start=1):
        yield _row(fields, f"{name} item {number}")


def _holds_rows(value: Any) -> bool:
    """Tell a list of rows from the turns of one, which are texts or have roles."""
    return isinstance(value, list) and not is_list_of_texts(value) and not _has_roles(value)


def _has_roles(listed: list[Any]) -> bool:
    return bool(listed) and all(isinstance(one, dict) and "role" in map(read_name, one) for one in listed)


def _account_for(document: dict[str, Any], container: str, name: str) -> None:
    """Name what stands beside the list of rows.

    Raises:
        DataError: It carries meaning, and is no other list of rows.
    """
    for key, value in document.items():
        if key == container or is_empty(value) or (fate := judged(key, frozenset()).fate) == "harmless":
            continue
        if fate == "meant" and not _holds_rows(value):
            raise DataError(
                f'{name}: "{shortened(key)}" beside the list "{container}" would not be trained',
                "write it into the rows that it belongs to, or take it out of the file; a system message of all rows "
                "is set by system_prompt",
            )
        console.warn(f'{name}: "{shortened(key)}" beside the list "{container}" is not used')


def _row(fields: Any, origin: str) -> RawRow | Rejected:
    return Rejected(origin, fields.reason) if isinstance(fields, _Broken) else RawRow(fields, origin)


def _read_lines(text: str, name: str) -> Iterator[RawRow | Rejected]:
    # Not splitlines(): it also breaks at characters that may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        origin = f"{name} line {number}"
        try:
            yield _row(_parse(line), origin)
        except _NotJsonError as error:
            yield Rejected(origin, f"{error}" + (f", column {error.column}" if error.column else ""))


def _read_objects(text: str, name: str) -> Iterator[RawRow | Rejected]:
    """Read objects of several lines each, one after another; lines where it is not even that."""
    try:
        _, end = _DECODER.raw_decode(text, len(text) - len(text.lstrip()))
    except (ValueError, RecursionError):
        yield from _read_lines(text, name)
        return
    place, line = 0, 1
    between = re.compile(r"[\s,]*")
    while (begin := between.match(text, place).end()) < len(text):  # type: ignore[union-attr]
        line += text.count("\n", place, begin)
        origin = f"{name} line {line}"
        try:
            fields, end = _DECODER.raw_decode(text, begin)
            yield _row(fields, origin)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            yield Rejected(origin, f"is not valid JSON ({reason})")
            following = re.compile(r"\n(?=\{)").search(text, begin)
            end = len(text) if following is None else following.end()
        line += text.count("\n", begin, end)
        place = end
