"""Every setting as documentation and command line see it, in the order of its declaration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from lorakit.config.kinds import Kind, Meaning, Shown
from lorakit.config.settings import Config

SECTIONS = ("Model", "Data", "LoRA", "Training", "Generation", "Evaluation", "Export", "Terminal")


@dataclass(frozen=True)
class Setting:
    """One setting as documentation and command line see it."""

    name: str
    section: str
    has_flag: bool
    changes_result: bool
    default: Any
    description: str
    type_text: str
    bounds_text: str


_TYPES: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    str | None: "text or null",
    int | None: "whole number or null",
    float | None: "number or null",
    dict[str, Any]: "mapping",
    dict[str, str]: "mapping",
    dict[str, Meaning]: "mapping",
    list[str]: "list of names",
}


def has_several_kinds(field: FieldInfo) -> bool:
    """Whether a setting's value may be of several kinds, null aside."""
    return get_origin(field.annotation) is not Literal and len({*get_args(field.annotation)} - {type(None)}) > 1


def type_text(field: FieldInfo) -> str:
    """Say of what kind the value of a setting is."""
    if kind := _kind_in(field.metadata):
        return kind.text
    parts = get_args(field.annotation)
    if kind := next((kind for part in parts if (kind := _kind_in(getattr(part, "__metadata__", ())))), None):
        return kind.or_null
    if field.annotation in _TYPES:
        return _TYPES[field.annotation]
    plain: dict[Any, tuple[str, ...]] = {bool: ("true", "false"), int: ("a whole number",), float: ("a number",)}
    choices: list[str] = []
    for part in [field.annotation] if get_origin(field.annotation) is Literal else parts:
        one = get_args(part)[0] if get_origin(part) is Annotated else part
        choices += plain.get(one) or get_args(one)
    return ", ".join(choices[:-1]) + " or " + choices[-1]


def _kind_in(metadata: Iterable[Any]) -> Kind | None:
    return next((item for item in metadata if isinstance(item, Kind)), None)


BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def number_text(number: float) -> str:
    """Write a bound as a person would: 1000000 and 0.1, not 1e+06 and 0.10000."""
    return str(int(number)) if number == int(number) else f"{number:g}"


def _bounds_text(metadata: list[Any]) -> str:
    found = [(word, getattr(item, name)) for item in metadata for name, word in BOUNDS.items() if hasattr(item, name)]
    return " and ".join(f"{word} {number_text(bound)}" for word, bound in found)


def settings() -> list[Setting]:
    """List every setting in the order of the class, which is the order of the documentation."""
    listed = []
    for name, field in Config.model_fields.items():
        shown = next(item for item in field.metadata if isinstance(item, Shown))
        listed.append(
            Setting(
                name=name,
                section=shown.section,
                has_flag=shown.flag,
                changes_result=shown.changes_result,
                default=field.default,
                description=field.description or "",
                type_text=type_text(field),
                bounds_text=_bounds_text(field.metadata),
            )
        )
    return listed


def shown_value(value: Any) -> str:
    """Write a default as it would stand in a configuration."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
