"""The field of an answer: a text, or the answers that several people gave to one question, as SQuAD has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorakit.data_processing.example import UnusableError
from lorakit.data_processing.field_names import normal, read_name
from lorakit.data_processing.ledger import Fields, is_empty, parsed_cell
from lorakit.data_processing.shapes.turns import text_of

_TEXTS = ("text", "answer", "value")  # of one of several answers
_PLURAL = "answers"


def read_answer(fields: Fields, name: str) -> str:
    """Read the field of an answer; of several answers the first, where they are known to be of one question.

    Raises:
        UnusableError: There is none, or it is not known which.
    """
    key = fields.key(name)
    value = fields.take(name, "answer")
    texts = _texts_of(_as_squad(value), fields, key)
    if texts is None:
        return text_of(value, key)
    given = list(dict.fromkeys(text_of(text, key) for text in texts if not is_empty(text)))
    if not given:
        raise UnusableError(f'"{key}" holds no answer', "leave the row out, or write what is to be answered")
    if len(given) > 1:
        is_of_one = isinstance(value, Mapping) or normal(key) == _PLURAL or fields.is_chosen(name)
        if not is_of_one:
            raise UnusableError(
                f'"{key}" is a list of {len(given)} texts',
                f"target_field: {key} trains the first of them, where they are answers to one question; "
                "else write them as one text",
            )
        fields.note(f"(other answers in {key})", "left out: the first one is trained")
    return given[0]


def _as_squad(value: Any) -> Any:
    """Read what a table keeps as text, where it is surely no answer itself."""
    parsed = parsed_cell(value)
    return parsed if isinstance(parsed, Mapping) and {"text", "answer_start"} <= parsed.keys() else value


def _texts_of(value: Any, fields: Fields, key: str) -> Sequence[Any] | None:
    """Return the texts of a list or an object of answers; None where it is neither."""
    if isinstance(value, Mapping):
        name = next((name for name in _TEXTS if not is_empty(value.get(name))), "text")
        if name not in value:
            return None
        inner = fields.inner(value, key)
        found = inner.take(read_name(name), "answer")
        inner.close()
        return found if isinstance(found, list | tuple) else [found]
    if not isinstance(value, list | tuple):
        return None
    if any(isinstance(one, Mapping) and "arguments" in one for one in value):
        raise UnusableError(f'"{key}" holds calls of tools, and the row has no tools', 'put them beside it, in "tools"')
    texts: list[Any] = []
    for one in value:
        found = _texts_of(one, fields, f"{key}[]") if isinstance(one, Mapping) else [one]
        if found is None:
            return None
        texts += found
    return texts
