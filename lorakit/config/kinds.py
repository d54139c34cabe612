"""Kinds of values that a setting may have, beyond those of Python."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError


@dataclass(frozen=True)
class Shown:
    """How a setting is shown, and whether a training that goes on may have another value.

    Attributes:
        section: Of the documentation.
        flag: Whether it has one of its own.
        changes_result: Whether another value makes another adapter of the same rows and the same model, which are
            compared by their content; False where it changes what, how fast or when something is written.
    """

    section: str
    flag: bool = False
    changes_result: bool = True


@dataclass(frozen=True)
class Kind:
    """What a kind of value is called in documentation, alone and where there may be none."""

    text: str
    or_null: str = ""


def _targets(value: Any) -> Any:
    is_names = isinstance(value, list) and value and all(isinstance(name, str) and name for name in value)
    if is_names or value == "all-linear":
        return value
    raise PydanticCustomError(
        "targets", "must be a list of layer names such as [q_proj, v_proj], or the word all-linear"
    )


TargetModules = Annotated[list[str] | str, BeforeValidator(_targets), Kind("list of names or all-linear")]


def _paths(value: Any) -> Any:
    listed = [value] if isinstance(value, str) else value
    if isinstance(listed, list) and all(isinstance(path, str) and path for path in listed):
        return listed
    raise PydanticCustomError("paths", "must be a path or a list of paths")


_PATHS = Kind("path or list of paths", "path, list of paths or null")
Paths = Annotated[list[str], BeforeValidator(_paths), _PATHS]


def _template_date(value: Any) -> Any:
    if isinstance(value, datetime.date):  # YAML's own reading
        value = value.isoformat()[:10]
    if value in ("auto", "today"):
        return value
    try:
        return datetime.date.fromisoformat(value).isoformat()
    except (TypeError, ValueError):
        raise PydanticCustomError("date", "must be auto, today or a date such as 2026-11-28") from None


TemplateDate = Annotated[str, BeforeValidator(_template_date), Kind("auto, today or a date")]


def _lora_ranks(value: Any) -> Any:
    listed = [value] if isinstance(value, int) else value
    is_ranks = isinstance(listed, list) and all(type(rank) is int and 1 <= rank <= 4096 for rank in listed)
    if is_ranks:
        return listed
    raise PydanticCustomError("ranks", "must be a list of ranks from 1 to 4096 such as [8, 32]")


LoraRanks = Annotated[list[int], BeforeValidator(_lora_ranks), Kind("list of whole numbers")]


class RowSource(BaseModel):
    """One of several files of rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    path: str = Field(min_length=1)
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    max_rows: Annotated[int, Field(ge=1)] | None = None
    split: Annotated[str, Field(min_length=1)] | None = None
    config: Annotated[str, Field(min_length=1)] | None = None


LEAST_TEMPERATURE = 0.001  # what scores are divided by; less is the most likely token, or beyond float32
_SOURCE_KEYS = ", ".join(RowSource.model_fields)


def _row_sources(value: Any) -> Any:
    """Read a path, or a list of paths and of mappings with one."""
    if isinstance(value, str) and value:
        return value
    listed = value if isinstance(value, list) else [value]
    try:
        sources = [
            one if isinstance(one, RowSource) else RowSource(**({"path": one} if isinstance(one, str) else one))
            for one in listed
        ]
    except (ValidationError, TypeError):
        sources = []
    if not sources:
        raise PydanticCustomError("sources", f"must be a path, or a list of paths and mappings ({_SOURCE_KEYS})")
    return sources


_SOURCES = Kind("path, or list of paths and mappings", "path, list of paths and mappings, or null")
RowSources = Annotated[str | list[RowSource], BeforeValidator(_row_sources), _SOURCES]
Meaning = Literal[
    "text", "target", "input", "system", "history", "reasoning", "tools", "images", "messages", "conversations", "chat"
]


def check_path(value: Any) -> Any:
    """Refuse a path that no system has."""
    listed = value if isinstance(value, list) else [value]
    paths = [one.path if isinstance(one, RowSource) else one for one in listed]
    if any(isinstance(path, str) and "\0" in path for path in paths):
        raise PydanticCustomError("nul", "must be without NUL characters, which no file name can have")
    return value
