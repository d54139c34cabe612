"""What to do about a row of which it is not known what is asked, or what is answered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from lorakit.data_processing.example import UnusableError, shortened
from lorakit.data_processing.field_names import judged, read_name
from lorakit.data_processing.ledger import Fields, is_empty

_SHOWN_FIELDS, _SHOWN_NAME = 20, 40
_RENDERED = ("<|im_start|>", "<|start_header_id|>", "[INST]", "<start_of_turn>")
# Words in the names of fields that people give to questions and to answers, the likeliest first.
_OF_QUESTIONS = re.compile(
    "question|prompt|query|instruct|problem|user|ask|input|utterance|message.?1|document|article|dialog|"
    "title|sentence|问|题|指令|输入",
    re.IGNORECASE,
)
_OF_ANSWERS = re.compile(
    "response|reply|completion|output|solution|generated|answer|assistant|attempt|result|summar|highlight|caption|"
    "label|message.?2|translation|code|sql|query|答|回复|输出|摘要",
    re.IGNORECASE,
)


def missing(
    fields: Fields, text_and_target: tuple[str, str], questions: Sequence[str], answers: Sequence[str]
) -> UnusableError:
    """Say which of question and answer a row has not, and which of its fields may be it.

    Args:
        fields: Of the row.
        text_and_target: The names that the settings give to question and answer.
        questions: Names under which readers look for a question.
        answers: The same of answers.
    """
    text, target = text_and_target
    found = shortened(", ".join(islice(map(str, fields.values), _SHOWN_FIELDS))) or "nothing"
    question, answer = next(filter(fields.has, questions), None), next(filter(fields.has, answers), None)
    if question and any(mark in str(fields.values[fields.key(question)]) for mark in _RENDERED):
        return UnusableError(
            f'"{fields.key(question)}" is text that a chat template has written already',
            "take the rows that it was made of (messages, or question and answer): lorakit writes the template itself",
        )
    if question is not None:
        reason = f'has "{fields.key(question)}" and no answer (found: {found})'
        if question == "text":
            reason = f'"{target}" is missing (found: {found}); rename the answer\'s field, or set target_field'
        return UnusableError(reason, _remedy_for_answer(fields, fields.key(question)))
    if answer is not None:
        reason = f'has "{fields.key(answer)}" and no question (found: {found})'
        if answer == "target":
            reason = f'"{text}" is missing (found: {found}); rename the question\'s field, or set text_field'
        return UnusableError(reason, _remedy_for_question(fields, fields.key(answer)))
    texts = [key for key in map(str, fields.values) if _may_be_text(fields, key)]
    remedy = "say which of the fields are question and answer: text_field: QUESTION and target_field: ANSWER"
    if len(texts) > 1:
        asked = min(texts, key=lambda key: _rank(_OF_QUESTIONS, key))
        told = min((key for key in texts if key != asked), key=lambda key: _rank(_OF_ANSWERS, key))
        remedy = (
            f"say which of the fields are question and answer, such as text_field: {shortened(asked, _SHOWN_NAME)} and "
            f"target_field: {shortened(told, _SHOWN_NAME)}"
        )
    return UnusableError(f'"{text}" and "{target}" are missing (found: {found})', remedy)


def _remedy_for_answer(fields: Fields, question: str) -> str:
    first, others = _candidates(fields, _OF_ANSWERS, question)
    if first is None:
        if len(fields.values) == 1:
            return "target_field: NAME says which field is the answer; text that nobody asked for is not trained"
        return "target_field: NAME says which field is the answer"
    if others:
        return f"target_field: {first}, if that is the answer; it may also be {others}"
    return f"target_field: {first}, if that is the answer"


def _remedy_for_question(fields: Fields, answer: str) -> str:
    first, others = _candidates(fields, _OF_QUESTIONS, answer)
    if first is None:
        return "text_field: NAME says which field is the question"
    if others:
        return f"text_field: {first}, if that is the question; it may also be {others}"
    return f"text_field: {first}, if that is the question"


def _candidates(fields: Fields, words: re.Pattern[str], taken: str) -> tuple[str | None, str]:
    """Name the field that is likely to be what is missing, and others that may be it."""
    named = (key for key in map(str, fields.values) if key != taken and words.search(key))
    likely = sorted((key for key in named if _may_be_text(fields, key)), key=lambda key: _rank(words, key))
    first = shortened(likely[0], _SHOWN_NAME) if likely else None
    return first, shortened(", ".join(likely[1:]))


def _rank(words: re.Pattern[str], key: str) -> float:
    found = words.search(key)
    return float("inf") if found is None else words.pattern.split("|").index(_word(words, found[0]))


def _word(words: re.Pattern[str], text: str) -> str:
    return next(word for word in words.pattern.split("|") if re.fullmatch(word, text, re.IGNORECASE))


def _may_be_text(fields: Fields, key: str) -> bool:
    """Tell a field whose value an answer could be, and whose name says nothing else."""
    value: Any = fields.values.get(key)
    if is_empty(value) or isinstance(value, bool) or read_name(key) in {"images", "system", "tools", "history"}:
        return False
    if judged(key, frozenset()).fate == "harmless":
        return False
    value = value[0] if isinstance(value, list | tuple) else value
    return isinstance(value, str | int | float) or (isinstance(value, dict) and "text" in value)
