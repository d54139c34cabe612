"""How a chat template wants to be asked, learnt by trying: templates differ in more than their tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lorakit.data_processing.calls.tool_rendering import written_call
from lorakit.data_processing.example import Message, ToolCall
from lorakit.data_processing.images import IMAGE_MARK
from lorakit.data_processing.reasoning import CLOSING, OPENING, joined, split_reasoning

_PROBE, _THOUGHT = "lorakitprobe", "lorakitthought"
_QUESTION, _ANSWER = Message("user", "a"), Message("assistant", _PROBE)
_CALL = ToolCall("lorakitcall", "{}")
# Names under which templates look for reasoning, and words by which one shows that it knows of it.
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_REASONING_WORDS = re.compile("think|reasoning")
_TAG = "think>"
_ENDS_OPEN = re.compile(r"<think>\s*$")


@dataclass(frozen=True)
class Ways:
    """How a template wants to be asked.

    Attributes:
        has_parts_only: Content must be a list of parts, text too.
        knows_reasoning: It does something about reasoning, whatever that is.
        has_reasoning_inline: Reasoning is handed to it within the text; else apart from it.
        opens_reasoning: A prompt for a reasoned answer ends with the opening tag.
        thought: What it writes around a thought, where it leaves out that of final answers.
        cuts_at_tag: It takes what stands before a closing tag for reasoning, in prose too, unless told of reasoning.
    """

    has_parts_only: bool = False
    knows_reasoning: bool = False
    has_reasoning_inline: bool = False
    opens_reasoning: bool = False
    thought: tuple[str, str] | None = None
    cuts_at_tag: bool = False

    def apart(self, message: Message) -> Message:
        """Take the reasoning out of an answer's text, where the template knows the difference."""
        if message.role != "assistant" or message.reasoning or not self.knows_reasoning:
            return message
        reasoning, content = split_reasoning(message.content, self.opens_reasoning)
        return replace(message, reasoning=reasoning, content=content)

    def as_expected(self, message: Message, has_arguments_as_text: bool) -> dict[str, Any]:
        """Return a turn as the template is to be given it."""
        message = self.apart(message)
        written: dict[str, Any] = {"role": message.role, "content": self._content(message)}
        if message.reasoning and not self.has_reasoning_inline:
            written |= dict.fromkeys(_REASONING_KEYS, message.reasoning)
        elif self.cuts_at_tag and CLOSING in message.content and message.role == "assistant":
            written[_REASONING_KEYS[0]] = ""
        if message.tool_calls:
            written["tool_calls"] = [written_call(call, has_arguments_as_text) for call in message.tool_calls]
        if message.name is not None:
            written["name"] = message.name
        if message.call_id is not None:
            written["tool_call_id"] = message.call_id
        return written

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        """Write the content as text, or as parts of text and pictures."""
        text = message.content
        if message.reasoning and self.has_reasoning_inline:
            text = joined(message.reasoning, text)
        if not message.images and not self.has_parts_only:
            return text
        parts: list[dict[str, str]] = []
        for number, between in enumerate(text.split(IMAGE_MARK, len(message.images))):
            if number:
                parts.append({"type": "image"})
            if between or not message.images:
                parts.append({"type": "text", "text": between})
        return parts


class Try(Protocol):
    """Writes a conversation in some ways; returns nothing where the template refuses it."""

    def __call__(self, ways: Ways, messages: Sequence[Message], answering: bool = False) -> str:
        """Return what the template writes."""


def learn_ways(tried: Try, template: str) -> Ways:
    """Find out how a template wants to be asked.

    Args:
        tried: Asks it.
        template: Its text.
    """
    known = Ways(has_parts_only=_needs_parts(tried))
    if not _REASONING_WORDS.search(template):
        return replace(known, has_reasoning_inline=True)
    known = replace(known, knows_reasoning=True)
    prompt = tried(known, [_QUESTION], answering=True)
    known = replace(known, opens_reasoning=_ENDS_OPEN.search(prompt) is not None)
    prose = replace(_ANSWER, content=f"{_PROBE} {OPENING} {CLOSING} {_THOUGHT}")
    known = replace(known, cuts_at_tag=_PROBE not in tried(known, [_QUESTION, prose]))
    reasoned = [_QUESTION, replace(_ANSWER, reasoning=_THOUGHT)]
    if _THOUGHT in tried(known, reasoned):
        return known
    if (thought := _learnt_thought(tried, known, prompt)) is not None:
        return replace(known, thought=thought)
    inline = replace(known, has_reasoning_inline=True)
    written = tried(inline, reasoned)
    return inline if _THOUGHT in written and _PROBE in written and _TAG in template else known


def _needs_parts(tried: Try) -> bool:
    probe = [Message("user", _PROBE)]
    return _PROBE not in tried(Ways(), probe) and _PROBE in tried(Ways(has_parts_only=True), probe)


def _learnt_thought(tried: Try, known: Ways, prompt: str) -> tuple[str, str] | None:
    """Learn from an answer with a call what is written around a thought: some leave out that of other answers."""
    calling = Message("assistant", "", tool_calls=(_CALL,))
    without, written = (
        tried(known, [_QUESTION, answer])[len(prompt) :] for answer in (calling, replace(calling, reasoning=_THOUGHT))
    )
    before, found, after = written.removesuffix(without).partition(_THOUGHT)
    return (before, after) if found and written.endswith(without) else None
