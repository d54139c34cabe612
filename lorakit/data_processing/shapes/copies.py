"""Fields that say again what the conversation of their row says: a prompt beside messages, a rendered text."""

from __future__ import annotations

from collections.abc import Sequence

from lorakit.data_processing.example import Message
from lorakit.data_processing.field_names import is_of_answers

_LEAST_CHARACTERS = 12  # of a text inside another one that is a copy and no coincidence
_ALPACA = ("Below is an instruction", "### Instruction:", "### Response:")


def is_said(name: str, value: str, messages: Sequence[Message]) -> bool:
    """Tell whether a field holds nothing but what the conversation says too.

    What a question should hold must stand before the answers: a passage that an answer quotes is not what was asked.

    Args:
        name: Of the field.
        value: Its text.
        messages: Of the conversation.
    """
    text = value.strip()
    asked = [message.content for message in messages if message.role in ("system", "user")]
    if any(text == said.strip() or (len(text) >= _LEAST_CHARACTERS and text in said) for said in asked):
        return True
    answers = [message.content.strip() for message in messages if message.role == "assistant"]
    if is_of_answers(name) and text in answers:
        return True
    return _is_alpacas(text, asked, answers)


def _is_alpacas(text: str, asked: Sequence[str], answers: Sequence[str]) -> bool:
    """Tell the text that Alpaca makes of a row, with its answer or without."""
    beginning, instruction, response = _ALPACA
    if not text.startswith(beginning) or instruction not in text:
        return False
    [question, _, answer] = text[text.index(instruction) + len(instruction) :].partition(response)
    question = question.replace("### Input:", "")
    known = "".join("".join(asked).split())
    return "".join(question.split()) in (known, "") and answer.strip() in ("", *answers)
