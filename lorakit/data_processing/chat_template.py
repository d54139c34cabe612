"""What a tokenizer's chat template writes, and how it must be asked: templates differ in more than their tokens."""

from __future__ import annotations

import copy
import datetime
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any

from lorakit.data_processing.bounded import LimitError, apply_chat_template
from lorakit.data_processing.example import Message, ToolCall
from lorakit.data_processing.images import IMAGE_MARK
from lorakit.data_processing.reasoning import CLOSING, OPENING, joined, split_reasoning
from lorakit.data_processing.tool_rendering import lost_of_tools, written_call
from lorakit.data_processing.written_shapes import WrittenShape, WrittenShapes
from lorakit.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For models without a chat template (GPT-2, OPT), written as one, so that everything else is the same.
PLAIN_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{{ message.content + '\n\n' }}"
    "{%- elif message.role == 'user' %}{{ '### Question:\n' + message.content + '\n\n' }}"
    "{%- else %}{{ '### Answer:\n' + message.content + eos_token + '\n\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '### Answer:\n' }}{%- endif %}"
)

_PROBE, _THOUGHT = "lorakitprobe", "lorakitthought"
_QUESTION, _ANSWER = Message("user", "a"), Message("assistant", _PROBE)
_CALL = ToolCall("lorakitcall", "{}")
_CLOCK = "strftime_now"
_CLOCK_CALL = re.compile(_CLOCK + r"\(\s*(['\"])((?:(?!\1).)*+)\1\s*\)")
# Names under which templates look for reasoning, and words by which one shows that it knows of it.
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_REASONING_WORDS = re.compile("think|reasoning")
_TAG = "think>"
_OPENING_TAG = re.compile(r"\s*<([A-Za-z_]+)>\s*")
_CLOSING_TAG = re.compile(r"\s*</[A-Za-z_]+>\s*")
_ENDS_OPEN = re.compile(r"<think>\s*$")
_LONGEST_BEGINNING = 40  # characters of an answer that a prompt may begin


class TemplateError(DataError):
    """The chat template cannot render this conversation in a way that training can be trusted."""


@dataclass(frozen=True)
class Turn:
    """One answer and all that stands before it.

    Attributes:
        prompt: The text before the answer, as inference feeds it.
        answer: The answer as the template writes it, end-of-turn token included.
        is_trained: Whether the answer carries loss.
        thought: Characters of the answer before what it says: its reasoning, with the tags around it.
        has_calls: Whether it calls tools, which some families end with another token.
    """

    prompt: str
    answer: str
    is_trained: bool = True
    thought: int = 0
    has_calls: bool = False


@dataclass(frozen=True)
class _Ways:
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


class ChatTemplate:
    """The chat template of a tokenizer, with everything that must be known to train what it writes.

    Args:
        tokenizer: Whose template it is.
        date: For templates that write today's; None for the day's own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, date: datetime.date | None = None) -> None:
        self._tokenizer = tokenizer
        self._date = date
        self._shapes: WrittenShapes | None = None
        self._ways = _Ways()
        self._ways = replace(self._ways, has_parts_only=self._needs_parts())
        if _REASONING_WORDS.search(str(tokenizer.chat_template)):
            self._ways = self._learnt_reasoning()
        else:
            self._ways = replace(self._ways, has_reasoning_inline=True)

    @property
    def date(self) -> datetime.date | None:
        """The date that it writes; None where it writes none, or the day's own."""
        return self._date if _CLOCK in str(self._tokenizer.chat_template) else None

    @property
    def writes_today(self) -> bool:
        """Whether it writes another text on another day."""
        return self._date is None and _CLOCK in str(self._tokenizer.chat_template)

    def dated(self, date: datetime.date) -> ChatTemplate:
        """Return the template as it writes another date."""
        other = copy.copy(self)
        other._date, other._shapes = date, None
        return other

    def turn(self, before: Sequence[Message], answer: Message) -> Turn:
        """Write an answer and what stands before it.

        Raises:
            TemplateError: The template fails, or loses a part of the answer.
        """
        answer = self._apart(answer)
        reasoning = (answer.reasoning or "").strip()
        prompt, written = self._written(before, answer, thinking=bool(reasoning))
        if answer.content.strip() not in written:
            raise TemplateError("the chat template loses the text of the answer", "choose another base model")
        text = self._continued(prompt, written, answer)
        if reasoning not in text:
            raise TemplateError(
                "the chat template writes no reasoning before an answer",
                "take the newest chat template of this model, or rows without reasoning",
            )
        if (lost := lost_of_tools(before, answer, prompt, text)) is not None:
            raise TemplateError(*lost)
        self._check_order_is_written(before, prompt)
        return Turn(
            prompt, text, answer.is_trained is not False, _end_of_thought(text, answer), bool(answer.tool_calls)
        )

    def _check_order_is_written(self, before: Sequence[Message], prompt: str) -> None:
        """Hold a template that knows questions and answers in turns only to what it leaves out of others.

        Raises:
            TemplateError: A turn is not there.
        """
        roles = [message.role for message in before if message.role not in {"tools", "system"}]
        if roles[:1] != ["assistant"] and all(one != other or one == "tool" for one, other in pairwise(roles)):
            return
        place = 0
        for message in before:
            if message.role == "tools" or message.images or message.tool_calls:
                continue
            text = self._apart(message).content.strip()
            if (place := prompt.find(text, place)) < 0:
                raise TemplateError(
                    "the chat template loses a turn where two of one role stand side by side, or an answer comes first",
                    "join the two turns, or begin with a question",
                )
            place += len(text)

    def prompt(self, messages: Sequence[Message], thinking: bool) -> str:
        """Write what stands before an answer that is to be given.

        Raises:
            TemplateError: The template refuses it, or leaves out tools or what they gave.
        """
        written = self.render(messages, answering=True, thinking=thinking)
        if (lost := lost_of_tools(messages, Message("assistant", ""), written, "")) is not None:
            raise TemplateError(*lost)
        return written

    def render(self, messages: Sequence[Message], answering: bool, thinking: bool) -> str:
        """Write a conversation.

        Args:
            messages: The conversation.
            answering: Whether an answer follows.
            thinking: Whether reasoning comes before it.

        Raises:
            TemplateError: The template refuses it.
        """
        try:
            return self._applied(messages, answering, thinking)
        except LimitError:
            raise
        except Exception as error:  # templates raise what they like, jinja2.TemplateError among others
            if any(message.tool_calls for message in messages):
                with suppress(Exception):
                    return self._applied(messages, answering, thinking, has_arguments_as_text=True)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TemplateError(f"the chat template refuses this conversation: {reason}") from error

    def _applied(
        self, messages: Sequence[Message], answering: bool, thinking: bool, has_arguments_as_text: bool = False
    ) -> str:
        tools = next((json.loads(message.content) for message in messages if message.role == "tools"), None)
        return apply_chat_template(
            self._tokenizer,
            [self._as_expected(message, has_arguments_as_text) for message in messages if message.role != "tools"],
            tools=tools,
            chat_template=self.text(tools),
            add_generation_prompt=answering,
            enable_thinking=thinking,
        )

    def _written(self, before: Sequence[Message], answer: Message, thinking: bool) -> tuple[str, str]:
        """Write the prompt and the whole: by what is known of conversations like it, or by the template."""
        if not thinking and all(map(_is_plain, before)) and _is_plain(answer):
            found = self._known_shapes().write([(message.role, message.content) for message in (*before, answer)])
            if found is not None:
                return found
        return (
            self.render(before, answering=True, thinking=thinking),
            self.render([*before, answer], answering=False, thinking=thinking),
        )

    def shape_of(self, roles: Sequence[str]) -> WrittenShape | None:
        """Return how plain conversations of some roles are written without reasoning; None where that is not known."""
        return self._known_shapes().shape_of(roles)

    def _known_shapes(self) -> WrittenShapes:
        if self._shapes is None:
            self._shapes = self._unlearnt_shapes()
        return self._shapes

    def _unlearnt_shapes(self) -> WrittenShapes:
        def render(messages: Sequence[tuple[str, str]], answering: bool) -> str:
            return self.render([Message(role, text) for role, text in messages], answering, False)  # type: ignore[arg-type]

        def as_expected(content: str) -> Any:
            return [{"type": "text", "text": content}] if self._ways.has_parts_only else content

        settings = {**self._tokenizer.special_tokens_map, "enable_thinking": False, "tools": None, "documents": None}
        return WrittenShapes(self.text(), as_expected, render, settings)

    def text(self, tools: Any = None) -> str:
        """Return the template itself, with a clock of its own where it is given a date."""
        text = str(self._tokenizer.get_chat_template(tools=tools))
        formats = sorted({found[2] for found in _CLOCK_CALL.finditer(text)})
        if self._date is None or not formats:
            return text
        shown = {wanted: self._date.strftime(wanted) for wanted in formats}
        return f"{{% macro {_CLOCK}(format) %}}{{{{ {shown!r}[format] }}}}{{% endmacro %}}{{{{ '' }}}}{text}"

    def _continued(self, prompt: str, written: str, answer: Message) -> str:
        """Return what the model is to write after the prompt so that the finished conversation is what is written."""
        reasoning = (answer.reasoning or "").strip("\n")
        if written.startswith(prompt):
            text = written[len(prompt) :]
            thought = self._ways.thought
            return text if thought is None or reasoning in text else thought[0] + reasoning + thought[1] + text
        content = answer.content.strip()
        same = takewhile(lambda pair: pair[0] == pair[1], zip(prompt, written, strict=False))
        place = sum(1 for _ in same)
        while place and not written[place:].lstrip().startswith(content):
            place -= 1
        begun = prompt[place:]
        if not content or not place or len(begun) > _LONGEST_BEGINNING:
            raise TemplateError(
                "the chat template writes something else before a finished answer than before a new one "
                f"(which begins after {prompt[-20:]!r})",
                "use another version of the model, such as its instruct version",
            )
        tag = _OPENING_TAG.fullmatch(begun)  # the thought that the prompt begins is closed, an empty one too
        return (f"{reasoning}\n</{tag[1]}>\n\n" if tag else "") + written[place:]

    def _apart(self, message: Message) -> Message:
        """Take the reasoning out of an answer's text, where the template knows the difference."""
        if message.role != "assistant" or message.reasoning or not self._ways.knows_reasoning:
            return message
        reasoning, content = split_reasoning(message.content, self._ways.opens_reasoning)
        return replace(message, reasoning=reasoning, content=content)

    def _as_expected(self, message: Message, has_arguments_as_text: bool) -> dict[str, Any]:
        message = self._apart(message)
        written: dict[str, Any] = {"role": message.role, "content": self._content(message)}
        if message.reasoning and not self._ways.has_reasoning_inline:
            written |= dict.fromkeys(_REASONING_KEYS, message.reasoning)
        elif self._ways.cuts_at_tag and CLOSING in message.content and message.role == "assistant":
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
        if message.reasoning and self._ways.has_reasoning_inline:
            text = joined(message.reasoning, text)
        if not message.images and not self._ways.has_parts_only:
            return text
        parts: list[dict[str, str]] = []
        for number, between in enumerate(text.split(IMAGE_MARK, len(message.images))):
            if number:
                parts.append({"type": "image"})
            if between or not message.images:
                parts.append({"type": "text", "text": between})
        return parts

    def _needs_parts(self) -> bool:
        probe = [Message("user", _PROBE)]
        if _PROBE in self._tried(probe):
            return False
        self._ways = _Ways(has_parts_only=True)
        return _PROBE in self._tried(probe)

    def _learnt_reasoning(self) -> _Ways:
        """Find out how reasoning is handed over so that the template writes it."""
        known = self._ways = replace(self._ways, knows_reasoning=True)
        prompt = self._tried([_QUESTION], answering=True)
        known = self._ways = replace(known, opens_reasoning=_ENDS_OPEN.search(prompt) is not None)
        prose = replace(_ANSWER, content=f"{_PROBE} {OPENING} {CLOSING} {_THOUGHT}")
        known = self._ways = replace(known, cuts_at_tag=_PROBE not in self._tried([_QUESTION, prose]))
        reasoned = [_QUESTION, replace(_ANSWER, reasoning=_THOUGHT)]
        if _THOUGHT in self._tried(reasoned):
            return known
        if (thought := self._learnt_thought(prompt)) is not None:
            return replace(known, thought=thought)
        self._ways = replace(known, has_reasoning_inline=True)
        written = self._tried(reasoned)
        has_both = _THOUGHT in written and _PROBE in written and _TAG in str(self._tokenizer.chat_template)
        return self._ways if has_both else known

    def _learnt_thought(self, prompt: str) -> tuple[str, str] | None:
        """Learn from an answer with a call what is written around a thought: some leave out that of other answers."""
        calling = Message("assistant", "", tool_calls=(_CALL,))
        without, written = (
            self._tried([_QUESTION, answer])[len(prompt) :]
            for answer in (calling, replace(calling, reasoning=_THOUGHT))
        )
        before, found, after = written.removesuffix(without).partition(_THOUGHT)
        return (before, after) if found and written.endswith(without) else None

    def _tried(self, messages: Sequence[Message], answering: bool = False, thinking: bool = True) -> str:
        try:
            return self.render(messages, answering, thinking)
        except TemplateError:
            return ""


def _is_plain(message: Message) -> bool:
    """Tell whether a turn is nothing but a text, which does not mention reasoning."""
    is_text = bool(message.content) and message.role in ("system", "user", "assistant") and _TAG not in message.content
    return is_text and not (
        message.images or message.reasoning or message.tool_calls or message.name or message.call_id
    )


def _end_of_thought(text: str, answer: Message) -> int:
    """Return where the reasoning of a written answer ends; 0 where it has none."""
    reasoning, content = answer.reasoning, answer.content
    if not reasoning:
        reasoning, content = split_reasoning(answer.content)
    if not reasoning:
        return 0
    after = text.find(reasoning.strip()) + len(reasoning.strip())
    if content.strip() and (place := text.find(content.strip(), after)) >= 0:
        return place
    closing = _CLOSING_TAG.match(text, after)
    return closing.end() if closing else after
