"""Tools, calls and results as rows write them: OpenAI's shape, ShareGPT's, and calls in the text as Hermes writes them.

Everything becomes JSON text in one form, so that arguments written as an object and as text give the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorakit.data_processing.calls.blocks import Marks, outside
from lorakit.data_processing.example import ToolCall, UnusableError, shortened
from lorakit.data_processing.ledger import Fields, parsed_cell

_CALL_IN_TEXT = Marks.compile("<tool_call>", "</tool_call>")
_RESULT_IN_TEXT = Marks.compile("<tool_response>", "</tool_response>")
_TOOLS_IN_TEXT = Marks.compile(r"<tools>\s*(?=[\[{])", "</tools>")

_GLAIVE = "access to the following functions"
TOOLACE = "list of functions in JSON format that you can invoke"
PREAMBLES = (_GLAIVE, TOOLACE)  # which list functions in a system message


def as_json(value: Any) -> str:
    """Write a value as chat templates do."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise UnusableError(f"holds a {type(value).__name__} in its tools or calls, which JSON cannot write") from None


def read_tools(value: Any, field: str = "tools") -> str | None:
    """Return the functions that may be called as a JSON list, each in OpenAI's form; None where there are none.

    Args:
        value: A list, one object, or either as JSON text; functions bare, or as ``{"type": "function", ...}``.
        field: Where it stands, for complaints.
    """
    value = parsed_cell(value)
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
        raise UnusableError(f'"{field}" is not a list of tools, nor one as JSON text')
    written = [_tool(parsed_cell(tool), field, number) for number, tool in enumerate(listed, start=1)]
    return as_json(written) if written else None


def _tool(tool: Any, field: str, number: int) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) and "function" in tool else tool
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UnusableError(f'"{field}" {number} is not a function with a name')
    return dict(tool) if function is not tool else {"type": "function", "function": dict(function)}


def read_calls(value: Any, fields: Fields, place: str) -> tuple[ToolCall, ...]:
    """Return calls from a list, one object, or either as JSON text.

    Args:
        value: Of calls in OpenAI's form (``id``, ``function``), or bare (``name``, ``arguments``).
        fields: Of the object that holds them, to account for their keys.
        place: Their name in it.
    """
    value = parsed_cell(value)
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
        raise UnusableError(
            f'"{place}" is not a list of calls ({{"name": ..., "arguments": ...}}), nor one as JSON text'
        )
    return tuple(_call(call, fields, place, number) for number, call in enumerate(listed, start=1))


def _call(value: Any, outer: Fields, place: str, number: int) -> ToolCall:
    if not isinstance(value, Mapping):
        raise UnusableError(f'"{place}" {number} is not a call ({{"name": ..., "arguments": ...}})')
    call = outer.inner(value, f"{place}[]")
    call_id, kind = call.take("id", "call's id"), call.take("type", "call's kind")
    function = call
    if isinstance(inner := call.take("function", "call"), Mapping):
        function = call.inner(inner, "function")
    name = function.take("name", "called function")
    if not isinstance(name, str) or not name.strip() or kind not in (None, "function"):
        raise UnusableError(f'"{place}" {number} does not name a function')
    arguments = next((key for key in ("arguments", "parameters", "input") if key in function), "arguments")
    written = read_arguments(function.take(arguments, "arguments"), f"{place} {number}")
    for fields in {id(one): one for one in (call, function)}.values():
        fields.close()
    return ToolCall(name, written, call_id if isinstance(call_id, str) else None)


def read_arguments(value: Any, place: str) -> str:
    """Return a call's arguments, an object or JSON text of one, as JSON text of one form."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "{}"
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=_without_twins)
        except (ValueError, RecursionError):
            raise UnusableError(f'"{place}" has arguments that are not JSON: {shortened(value, 40)}') from None
    if not isinstance(value, Mapping):
        raise UnusableError(f'"{place}" has arguments that are not an object (found: {type(value).__name__})')
    return as_json(value)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key stands twice")
    return fields


def calls_in_text(text: str, fields: Fields, place: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Take the calls out of an answer that has them in its text: ``<tool_call>{...}</tool_call>``."""
    blocks = list(_CALL_IN_TEXT.blocks(text))
    found = [call for block in blocks for call in read_calls(block.inner.strip(), fields, place)]
    return (outside(text, blocks).strip(), tuple(found)) if found else (text, ())


def results_in_text(text: str) -> Iterator[str]:
    """Yield the results of a turn: what stands in ``<tool_response>``, or all of it."""
    blocks = list(_RESULT_IN_TEXT.blocks(text))
    if blocks and not outside(text, blocks).strip():
        yield from (block.inner.strip() for block in blocks)
    else:
        yield text


def tools_in_text(text: str) -> str | None:
    """Return the tools that a system message lists, as Hermes, Glaive and ToolACE write it; None where it lists none.

    Such a message is the preamble that one family's template writes; the model's own template writes its own.
    """
    listed: list[Any] = _functions_in_text(text) if any(preamble in text for preamble in PREAMBLES) else []
    for block in _TOOLS_IN_TEXT.blocks(text):
        value: Any = parsed_cell(block.inner.strip())
        if isinstance(value, str):  # one object a line
            value = [parsed_cell(line) for line in block.inner.splitlines() if line.strip()]
        listed += value if isinstance(value, list) else [value]
    if not listed or any(isinstance(tool, str) for tool in listed):
        return None
    return read_tools(listed, "system")


def _functions_in_text(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects with a name that a system text lists one after another."""
    decoder, place, found = json.JSONDecoder(), 0, []
    while (place := text.find("{", place)) >= 0:
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            found.append(value)
    return found
