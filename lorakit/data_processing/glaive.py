"""Glaive's rows of function calling: a whole conversation as one text, the functions in its system text."""

from __future__ import annotations

import re

from lorakit.data_processing.example import Message, ToolCall, UnusableError
from lorakit.data_processing.ledger import Fields
from lorakit.data_processing.tool_calls import read_arguments
from lorakit.data_processing.turns import Draft, text_of

_SPEAKER = re.compile(r"\s*(USER|ASSISTANT|FUNCTION RESPONSE):[ \t]*")
_END = re.compile(r"\s*<\|endoftext\|>\s*")
# The arguments stand in single quotes, which JSON does not know.
_CALL = re.compile(
    r'<functioncall>\s*\{\s*"name":\s*"([^"]+)"\s*(?:,\s*"arguments":\s*(?:\'(.*)\'|(\{.*\})))?\s*\}', re.DOTALL
)


def read_glaive(fields: Fields, has_tools: bool) -> list[Draft]:
    """Read ``chat``: ``USER: ... ASSISTANT: ... FUNCTION RESPONSE: ...``, answers ended by ``<|endoftext|>``."""
    name = fields.key("chat")
    text = text_of(fields.take("chat", "turns"), name)
    before, *pieces = _SPEAKER.split(text)
    if before.strip() or not pieces:
        raise UnusableError(f'"{name}" does not begin with USER: or ASSISTANT:')
    return [
        Draft(_message(speaker, _END.sub("", said).strip(), f"{name} turn {number}"))
        for number, (speaker, said) in enumerate(zip(pieces[::2], pieces[1::2], strict=True), start=1)
    ]


def _message(speaker: str, said: str, place: str) -> Message:
    if speaker == "USER":
        return Message("user", text_of(said, place))
    if speaker == "FUNCTION RESPONSE":
        return Message("tool", text_of(said, place))
    if "<functioncall>" not in said:
        return Message("assistant", text_of(said, place))
    call = _CALL.search(said)
    if call is None:
        raise UnusableError(f'"{place}" has a <functioncall> that cannot be read')
    rest = (said[: call.start()] + said[call.end() :]).strip()
    arguments = read_arguments((call[2] or call[3] or "").replace("\\'", "'"), place)
    return Message("assistant", rest, tool_calls=(ToolCall(call[1], arguments),))
