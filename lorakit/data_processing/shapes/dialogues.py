"""Conversations that are written as one text, with a mark before each speaker.

| way              | looks like                                                                              |
|------------------|-----------------------------------------------------------------------------------------|
| Glaive           | ``SYSTEM: ... USER: ... ASSISTANT: ... <|endoftext|> FUNCTION RESPONSE: ...``, a line each |
| MOSS             | ``<|Human|>: ...<eoh> <|MOSS|>: ...<eom>``, ``[Human]: ...<eoh> [MOSS]: ...<eoa>``        |
| Baize            | ``[|Human|] ... [|AI|] ...``                                                            |
| Guanaco          | ``### Human: ...### Assistant: ...``                                                    |
| OIG              | ``<human>: ...`` and ``<bot>: ...``, a line each                                        |
| Belle, Anthropic | ``Human: ...`` and ``Assistant: ...``, a line each                                      |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.data_processing.calls.tool_calls import read_arguments
from lorakit.data_processing.example import Message, Role, ToolCall, UnusableError, shortened
from lorakit.data_processing.field_names import read_name
from lorakit.data_processing.ledger import Fields, is_empty
from lorakit.data_processing.shapes.turns import Draft, text_of

_ROLES: dict[str, Role] = {
    **{"SYSTEM": "system", "USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"},
    **{"Human": "user", "User": "user", "MOSS": "assistant", "AI": "assistant", "Assistant": "assistant"},
    **{"human": "user", "bot": "assistant"},
}


@dataclass(frozen=True)
class _Way:
    """How a text says who speaks.

    Attributes:
        speaker: Who it is, in its first group.
        end: What stands behind what was said.
    """

    speaker: re.Pattern[str]
    end: re.Pattern[str]


_NO_END = re.compile(r"(?!)")
_WAYS = (
    _Way(
        re.compile(r"(?:^\s*|\n[^\S\n]*)(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):[ \t]*"),
        re.compile(r"(?<!\s)\s*<\|endoftext\|>"),
    ),
    _Way(re.compile(r"<\|(Human|MOSS)\|>:[ \t]*"), re.compile("<eo[hm]>")),
    _Way(re.compile(r"\[(Human|MOSS)\]:[ \t]*"), re.compile("<eo[ha]>")),
    _Way(re.compile(r"\[\|(Human|AI)\|\][ \t]*"), _NO_END),
    _Way(re.compile(r"(?:^|\n)<(human|bot)>:[ \t]*"), _NO_END),
    _Way(re.compile(r"###[ \t]?(Human|Assistant):[ \t]*"), _NO_END),
    _Way(re.compile(r"(?:^|\n)[ \t]*(Human|User|Assistant)[:\uff1a][ \t]*"), _NO_END),
)
# Of which a text with such turns has one.
MARKS = ("USER:", "<human>:", "<|Human|>", "[Human]", "[|Human|]", "Human:", "Human\uff1a", "User:", "User\uff1a")
# The arguments stand in single quotes, which JSON does not know.
_CALL = re.compile(
    r'<functioncall>\s*\{\s*"name":\s*"([^"]+)"\s*(?:,\s*"arguments":\s*(?:\'(.*)\'|(\{.*\})))?\s*\}', re.DOTALL
)
_BAIZE = "The conversation between human and AI assistant."


def turns_written_in(text: Any) -> list[tuple[Role, str]] | None:
    """Take a text apart that is nothing but the turns of a conversation; None where it is anything else.

    Question and answer follow each other from the first to the last, after an optional system message; the last one may
    be empty.
    """
    if not isinstance(text, str) or not any(mark in text for mark in MARKS):
        return None
    text = text.removeprefix(_BAIZE)
    for way in _WAYS:
        before, *pieces = way.speaker.split(text)
        if before.strip() or not pieces:
            continue
        said = [way.end.sub("", piece).strip() for piece in pieces[1::2]]
        turns = list(zip((_ROLES[speaker] for speaker in pieces[::2]), said, strict=True))
        return turns if _is_conversation(turns) else None
    return None


def _is_conversation(turns: list[tuple[Role, str]]) -> bool:
    spoken = [role for role, _ in turns if role != "tool"]
    spoken = spoken[1:] if spoken[0] == "system" else spoken
    expected: list[Role] = ["user", "assistant"]
    if any(role == "tool" for role, _ in turns):  # the answer to a result follows on a call
        spoken = [role for place, role in enumerate(spoken) if not place or role != spoken[place - 1]]
    return len(spoken) > 1 and all(role == expected[place % 2] for place, role in enumerate(spoken))


def read_dialogue(fields: Fields, name: str) -> list[Draft]:
    """Read a field that is a whole conversation."""
    shown = fields.key(name)
    turns = turns_written_in(fields.take(name, "turns")) or []
    while turns and not turns[-1][1]:
        turns.pop()  # a mark that waits for more
    drafts = [
        Draft(_message(role, said, f"{shown} turn {number}")) for number, (role, said) in enumerate(turns, start=1)
    ]
    if fields.has("prefix") and drafts[0].message.role != "system":  # MOSS
        prefix = text_of(fields.take("prefix", "system message"), fields.key("prefix"))
        drafts.insert(0, Draft(Message("system", prefix)))
    return drafts


_ASKING = re.compile(r"\b(?:USER|User|Human)[:\uff1a]")
_ANSWERING = re.compile(r"\b(?:ASSISTANT|Assistant|AI|GPT)[:\uff1a]")
_TURNS = 'write turns as {"messages": [{"role": "user", "content": "..."}, ...]}'


def refuse_unread(fields: Fields) -> None:
    """Name a conversation in one text that cannot be taken apart."""
    if fields.has("chat"):
        raise UnusableError(
            f'"{fields.key("chat")}" does not begin with USER: or another speaker\'s mark, from where question and '
            "answer follow each other",
            _TURNS,
        )
    for name in ("text", "input", "prompt", "sample", "plain_text"):
        if fields.has(name) and _is_spoken_by_both(str(fields.values[fields.key(name)])):
            raise UnusableError(
                f'"{fields.key(name)}" seems to be a conversation in one text, whose speakers\' marks do not each '
                "begin a line, from the first line on",
                f"begin a line before each mark, and leave out what stands before the first one; or {_TURNS}",
            )


def _is_spoken_by_both(text: str) -> bool:
    asking = _ASKING.search(text)
    return asking is not None and _ANSWERING.search(text, asking.end()) is not None


def _message(role: Role, said: str, place: str) -> Message:
    if role != "assistant" or "<functioncall>" not in said:
        return Message(role, text_of(said, place))
    call = _CALL.match(said, said.index("<functioncall>"))
    if call is None:
        raise UnusableError(f'"{place}" has a <functioncall> that cannot be read')
    rest = (said[: call.start()] + said[call.end() :]).strip()
    arguments = read_arguments((call[2] or call[3] or "").replace("\\'", "'"), place)
    return Message("assistant", rest, tool_calls=(ToolCall(call[1], arguments),))


def asked_in_turns(text: Any) -> list[Message] | None:
    """Return the turns that a question has written into it, as Belle's and Anthropic's have; None where it has none.

    That is so only where it begins with one speaker's mark and ends with the other's, who is to go on.
    """
    turns = turns_written_in(text)
    if turns is None or turns[-1] != ("assistant", "") or not all(said for _, said in turns[:-1]):
        return None
    return [Message(role, said) for role, said in turns[:-1]]


_SPOKEN = re.compile(r"^\s*<\|(?:Human|MOSS|Inner Thoughts|Commands|Results)\|>:[ \t]*|<eo[htcrm]>\s*$")
_MOSS_SAYS_NOTHING = {"", "None"}


def is_of_moss(value: Any) -> bool:
    """Tell turns that are one object: ``{"turn_1": {"Human": ..., "MOSS": ...}, ...}``."""
    return (
        isinstance(value, Mapping) and "turn_1" in value and all(isinstance(turn, Mapping) for turn in value.values())
    )


def read_moss(fields: Fields) -> list[Draft]:
    """Read the turns of MOSS.

    Raises:
        UnusableError: One of them calls a plugin.
    """
    name = fields.key("chat")
    drafts: list[Draft] = []
    for key, turn in fields.take("chat", "turns").items():
        if is_empty(turn):  # a column of Parquet that other rows need
            continue
        one, place = fields.inner(turn, f"{name}.turn"), f"{name} {key}"
        said = {part: _SPOKEN.sub("", str(one.take(read_name(part), "turn") or "")).strip() for part in turn}
        called = {part for part in ("Commands", "Tool Responses") if said.get(part, "") not in _MOSS_SAYS_NOTHING}
        if called:
            raise UnusableError(
                f"{place} calls a plugin of MOSS ({shortened(said.get('Commands', ''), 40)})",
                'write calls as "tool_calls" of the answer, and their results as turns of the role tool',
            )
        thought = said.get("Inner Thoughts", "")
        reasoning = None if thought in _MOSS_SAYS_NOTHING else thought
        drafts.append(Draft(Message("user", text_of(said.get("Human"), place))))
        drafts.append(Draft(Message("assistant", text_of(said.get("MOSS"), place), reasoning=reasoning)))
        one.close()
    return drafts
