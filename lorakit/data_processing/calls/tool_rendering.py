"""Tools, calls and results on their way into a chat template, and what must be found again in what it writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lorakit.data_processing.example import Message, ToolCall

_WORD = re.compile(r"\w+")
_CONSTANTS = {"true", "false", "null"}  # some templates write them as Python does
_HINT = "take a model whose chat template knows tools, such as Qwen3, or rows without them"


def written_call(call: ToolCall, as_text: bool) -> dict[str, Any]:
    """Return a call as templates expect it: its arguments an object, or JSON text for those that take nothing else."""
    arguments = call.arguments if as_text else json.loads(call.arguments)
    written: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return written if call.call_id is None else {"id": call.call_id, **written}


def lost_of_tools(before: Sequence[Message], answer: Message, prompt: str, written: str) -> tuple[str, str] | None:
    """Say what a template has left out of tools, results and calls, and what to do; None where all is there.

    Args:
        before: The conversation up to the answer.
        answer: What follows.
        prompt: What the template writes of ``before``.
        written: What it writes of the answer.
    """
    shown = set(_words(prompt))
    offered: list[dict[str, Any]] = next(
        (json.loads(message.content) for message in before if message.role == "tools"), []
    )
    for tool in offered:
        if not shown.issuperset(_words(str(tool.get("function", tool)["name"]))):
            return "the chat template has no place for tools", _HINT
    for message in before:
        if message.role == "tool" and not shown.issuperset(_words(message.content)):
            return "the chat template has no place for the results of calls", _HINT
        if any(_is_lost(call, shown) for call in message.tool_calls):
            return "the chat template has no place for calls in earlier turns", _HINT
    if any(_is_lost(call, set(_words(written))) for call in answer.tool_calls):
        return "the chat template has no place for calls", _HINT
    return None


def _is_lost(call: ToolCall, shown: set[str]) -> bool:
    return not shown.issuperset(_words(call.name)) or not shown.issuperset(_words(call.arguments))


def _words(text: str) -> Iterator[str]:
    """Yield the words of a text; those of escapes in JSON are none."""
    plain = re.sub(r"\\(?:u[0-9a-fA-F]{4}|.)", " ", text)
    return (word for word in _WORD.findall(plain) if word not in _CONSTANTS)
