"""What a tokenizer's chat template writes of a conversation, and of an answer in it."""

from __future__ import annotations

import copy
import datetime
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any

from lorakit.data_processing.calls.tool_rendering import lost_of_tools
from lorakit.data_processing.example import Message
from lorakit.data_processing.reasoning import split_reasoning
from lorakit.data_processing.templates.bounded import LimitError, apply_chat_template
from lorakit.data_processing.templates.ways import Ways, learn_ways
from lorakit.data_processing.templates.written_shapes import WrittenShape, WrittenShapes
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

_CLOCK = "strftime_now"
_CLOCK_CALL = re.compile(_CLOCK + r"\(\s*(['\"])((?:(?!\1).)*+)\1\s*\)")
_TAG = "think>"
_OPENING_TAG = re.compile(r"\s*<([A-Za-z_]+)>\s*")
_CLOSING_TAG = re.compile(r"\s*</[A-Za-z_]+>\s*")
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
        self._ways = Ways()
        self._ways = learn_ways(self._tried, str(tokenizer.chat_template))

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
        answer = self._ways.apart(answer)
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
            text = self._ways.apart(message).content.strip()
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
            [self._ways.as_expected(message, has_arguments_as_text) for message in messages if message.role != "tools"],
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

    def _tried(self, ways: Ways, messages: Sequence[Message], answering: bool = False) -> str:
        self._ways = ways
        try:
            return self.render(messages, answering, thinking=True)
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
