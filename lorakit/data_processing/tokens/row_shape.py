"""The shape of a row, which is all of it but its texts, and rows of one shape with other texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lorakit.data_processing.field_names import read_name
from lorakit.data_processing.ledger import is_empty
from lorakit.data_processing.picture_values import kind_of_picture


def shape_of(fields: Any) -> tuple[Any, list[str]] | None:
    """Take the texts out of a row.

    Returns:
        What is left, which rows of one shape have in common, and the texts in order; None where a row has more than
        texts, numbers and turns in it.
    """
    if type(fields) is not dict:
        return None
    key: list[Any] = []
    contents: list[str] = []
    for name, value in fields.items():
        if type(value) is str:
            if value and not value.isspace():
                contents.append(value)
                key.append(name)
            else:
                key.append((name, ""))
        elif value is None or type(value) is bool:
            key.append((name, value))
        elif isinstance(value, float | int):
            key.append((name, "nan" if is_empty(value) else "number"))
        elif isinstance(value, list) and value and all(type(turn) is dict for turn in value):
            turns = _turns_of(value, contents)
            if turns is None:
                return None
            key.append((name, turns))
        elif isinstance(value, list | dict):
            key.append((name, "some" if value else "none", type(value), kind_of_picture(value)))
        else:
            return None
    return tuple(key), contents


def _turns_of(turns: list[dict[str, Any]], contents: list[str]) -> tuple[Any, ...] | None:
    key: list[Any] = []
    for turn in turns:
        for name, value in turn.items():
            if type(value) is str:
                if read_name(name) == "role":
                    key.append((name, value))
                elif value and not value.isspace():
                    contents.append(value)
                    key.append(name)
                else:
                    key.append((name, ""))
            elif value is None or value is True or value is False or (type(value) is int and value in (0, 1)):
                key.append((name, value, type(value)))
            else:
                return None
        key.append(0)
    return tuple(key)


def marked(fields: Mapping[str, Any], marks: Iterator[str]) -> dict[str, Any]:
    """Put marks in the place of the texts that `shape_of` takes out."""
    return {name: _marked_value(value, marks) for name, value in fields.items()}


def _marked_value(value: Any, marks: Iterator[str]) -> Any:
    if type(value) is str:
        return next(marks) if value and not value.isspace() else value
    if isinstance(value, list) and value and all(type(turn) is dict for turn in value):
        return [
            {name: own if read_name(name) == "role" else _marked_value(own, marks) for name, own in turn.items()}
            for turn in value
        ]
    return value


def is_opaque(value: Any) -> bool:
    """Tell a value of which the shape of a row says only that there is one."""
    if isinstance(value, list):
        return not (value and all(type(turn) is dict for turn in value))
    return isinstance(value, dict) or (isinstance(value, float | int) and type(value) is not bool)
