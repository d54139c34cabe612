"""The shapes in which people write rows, each turned into an `Example`.

| shape             | recognised by                                 |
|-------------------|-----------------------------------------------|
| OpenAI            | ``messages``                                  |
| ShareGPT          | ``conversations``                             |
| Alpaca            | ``instruction`` and ``output``                |
| question/answer   | ``text`` and ``target``, or a pair in `PAIRS` |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from lorakit.data_processing.example import Example, Message, Rejected, Role, has_half_character, shortened
from lorakit.data_processing.files import RawRow
from lorakit.data_processing.images import IMAGE_MARK, ImageError, resolve_image

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
)

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_SHOWN_FIELDS = 20
_SHOWN_ROLE = 40


@dataclass(frozen=True)
class FieldNames:
    """How the user's question/answer rows name their two fields."""

    text: str = "text"
    target: str = "target"


class _UnusableError(ValueError):
    """The row cannot be used; the text says why."""


def to_example(
    row: RawRow, names: FieldNames, system_prompt: str | None = None, folder: Path = Path()
) -> Example | Rejected:
    """Turn a raw row of any known shape into a conversation, or say what is wrong with it.

    Args:
        row: The row as the file has it.
        names: The fields of question/answer rows.
        system_prompt: Given to conversations that carry no system message.
        folder: Of the data file, to which paths of pictures are relative.
    """
    try:
        if not isinstance(row.fields, Mapping):
            raise _UnusableError(f"is not an object with fields (found: {type(row.fields).__name__})")
        messages = _reader_for(row.fields, names)(row.fields)
        messages = _with_images(messages, row.fields, folder)
        return Example(_checked(messages, system_prompt), row.origin)
    except _UnusableError as error:
        return Rejected(row.origin, str(error))


_Reader = Callable[[Mapping[str, Any]], list[Message]]


def _reader_for(fields: Mapping[str, Any], names: FieldNames) -> _Reader:
    if names.text in fields and names.target in fields:
        return lambda row: _read_pair(row, names.text, names.target)
    if "messages" in fields:
        return lambda row: _read_turns(row, "messages", "role", "content")
    if "conversations" in fields:
        return lambda row: _read_turns(row, "conversations", "from", "value")
    if "instruction" in fields and "output" in fields:
        return _read_alpaca
    for text, target in PAIRS:
        if text in fields and target in fields:
            return lambda row, text=text, target=target: _read_pair(row, text, target)  # type: ignore[misc]
    raise _UnusableError(_missing(fields, names))


def _missing(fields: Mapping[str, Any], names: FieldNames) -> str:
    found = shortened(", ".join(str(key) for key in islice(fields, _SHOWN_FIELDS))) or "nothing"
    if names.text in fields:
        return f'"{names.target}" is missing (found: {found}); rename the answer\'s field, or set target_field'
    if names.target in fields:
        return f'"{names.text}" is missing (found: {found}); rename the question\'s field, or set text_field'
    return f'"{names.text}" and "{names.target}" are missing (found: {found})'


def _read_pair(row: Mapping[str, Any], text: str, target: str) -> list[Message]:
    return [Message("user", _text(row[text], text)), Message("assistant", _text(row[target], target))]


def _read_alpaca(row: Mapping[str, Any]) -> list[Message]:
    messages = []
    if row.get("system"):
        messages.append(Message("system", _text(row["system"], "system")))
    history = row.get("history") or []
    for turn in history if isinstance(history, list | tuple) else [history]:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise _UnusableError('"history" is not a list of [question, answer] pairs')
        messages += [Message("user", _text(turn[0], "history")), Message("assistant", _text(turn[1], "history"))]
    question = _text(row["instruction"], "instruction")
    if row.get("input"):
        question = f"{question}\n{_text(row['input'], 'input')}"
    return [*messages, Message("user", question), Message("assistant", _text(row["output"], "output"))]


def _read_turns(row: Mapping[str, Any], field: str, role_key: str, content_key: str) -> list[Message]:
    turns = row[field]
    if not isinstance(turns, list | tuple):
        raise _UnusableError(f'"{field}" is not a list of turns')
    messages = []
    if isinstance(row.get("system"), str) and row["system"]:
        messages.append(Message("system", row["system"]))
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            raise _UnusableError(f'"{field}" turn {number} is not an object')
        # Both spellings are met under either name.
        role = turn.get(role_key, turn.get("role", turn.get("from")))
        content = turn.get(content_key, turn.get("content", turn.get("value")))
        if not isinstance(role, str) or role not in _ROLES:
            found = shortened(repr(role), _SHOWN_ROLE)
            raise _UnusableError(f'"{field}" turn {number} has the role {found}; known are {", ".join(_ROLES)}')
        joined, images = _joined_parts(content, field, number)
        text = _text(joined, f"{field} turn {number}")
        reasoning = turn.get("reasoning_content")
        is_reasoned = isinstance(reasoning, str) and bool(reasoning.strip())
        messages.append(Message(_ROLES[role], text, images, reasoning=reasoning if is_reasoned else None))
    return messages


def _joined_parts(content: Any, field: str, number: int) -> tuple[Any, tuple[str, ...]]:
    """Read OpenAI's content parts: [{"type": "text", "text": ...}, {"type": "image", "image": path}]."""
    if not isinstance(content, list):
        return content, ()
    texts: list[str] = []
    images: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            texts.append(_text(part.get("text"), "text"))
        elif kind in {"image", "image_url"}:
            images.append(_image_path(part.get(kind, part.get("path", part.get("url"))), kind))
            texts.append(IMAGE_MARK)
        else:
            raise _UnusableError(f'"{field}" turn {number} holds a part that is neither text nor a picture')
    return "".join(texts), tuple(images)


def _image_path(value: Any, field: str) -> str:
    """Read a path, or an object that holds one, as datasets and OpenAI write it."""
    if isinstance(value, Mapping):
        value = value.get("path") or value.get("url")
    if not isinstance(value, str) or not value.strip():
        found = "null" if value is None else type(value).__name__
        raise _UnusableError(f'"{field}" is not the path of a picture (found: {found})')
    return value


def _with_images(messages: list[Message], fields: Mapping[str, Any], folder: Path) -> list[Message]:
    """Give the row's pictures to the marks in its questions, or all to the first question where it has no marks."""
    field = next((name for name in ("images", "image") if fields.get(name)), None)
    listed = [] if field is None else fields[field] if isinstance(fields[field], list) else [fields[field]]
    paths = [_image_path(value, str(field)) for value in listed]
    if paths and any(message.images for message in messages):
        raise _UnusableError(f'names pictures both in its turns and in "{field}"')
    if paths:
        messages = _distributed(messages, paths)
    for message in messages:
        marks = message.content.count(IMAGE_MARK)
        if message.images and marks != len(message.images):  # a mark in the text beside parts: which one is meant?
            raise _UnusableError(f"has {len(message.images)} pictures but {marks} marks {IMAGE_MARK} in one turn")
    try:
        return [
            replace(message, images=tuple(resolve_image(path, folder) for path in message.images))
            for message in messages
        ]
    except ImageError as refusal:
        raise _UnusableError(refusal.message) from None


def _distributed(messages: list[Message], paths: list[str]) -> list[Message]:
    marks = sum(message.content.count(IMAGE_MARK) for message in messages)
    first = next((place for place, message in enumerate(messages) if message.role == "user"), None)
    if not marks and first is not None:
        marked = replace(messages[first], content=IMAGE_MARK * len(paths) + messages[first].content)
        messages = [*messages[:first], marked, *messages[first + 1 :]]
    elif marks != len(paths):
        raise _UnusableError(f"has {len(paths)} pictures but {marks} marks {IMAGE_MARK}")
    waiting = iter(paths)
    return [replace(message, images=tuple(islice(waiting, message.content.count(IMAGE_MARK)))) for message in messages]


def _text(value: Any, field: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        found = "null" if value is None else type(value).__name__
        raise _UnusableError(f'"{field}" is not text (found: {found})')
    if isinstance(value, float) and not math.isfinite(value):
        raise _UnusableError(f'"{field}" is not text (found: {value})')
    if not (text := str(value)).strip():
        raise _UnusableError(f'"{field}" is empty')
    if has_half_character(text):
        raise _UnusableError(f'"{field}" holds half a character (an unpaired surrogate)')
    return text


def _checked(messages: list[Message], system_prompt: str | None) -> tuple[Message, ...]:
    while messages and (messages[-1].role != "assistant" or messages[-1].is_trained is False):
        messages.pop()  # nothing after the last answer that is trained can be
    if not messages:
        raise _UnusableError("has no answer")
    if any(message.role == "system" for message in messages[1:]):
        raise _UnusableError("has a system message that is not the first")
    if system_prompt and messages[0].role != "system":
        messages.insert(0, Message("system", system_prompt))
    spoken = [message.role for message in messages if message.role != "system"]
    if spoken[0] != "user":
        raise _UnusableError("begins with an answer, not with a question")
    if any(first == second for first, second in pairwise(spoken)):
        raise _UnusableError("has two turns of the same role in succession")
    return tuple(messages)
