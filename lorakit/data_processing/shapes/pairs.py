"""Rows of a question and its answer in fields of their own, with what stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lorakit.data_processing.calls.tool_calls import calls_in_text, read_calls
from lorakit.data_processing.example import Message, UnusableError
from lorakit.data_processing.ledger import Fields, parsed_cell
from lorakit.data_processing.shapes.answers import read_answer
from lorakit.data_processing.shapes.dialogues import asked_in_turns, turns_written_in
from lorakit.data_processing.shapes.turns import Draft, are_turns, read_turns, reasoning_in, text_of


def read_pair(fields: Fields, question: str, answer: str, has_tools: bool) -> list[Draft]:
    """Read a row of question and answer."""
    asked, is_continued = _asked(fields, question, has_tools)
    return [*_history(fields), *asked, *answered(fields, answer, has_tools, is_continued)]


def read_xlam(fields: Fields, question: str) -> list[Draft]:
    """Read a row whose answers are calls."""
    calls = read_calls(fields.take("answers", "calls"), fields, fields.key("answers"))
    asked = text_of(fields.take(question, "question"), fields.key(question))
    return [*_history(fields), Draft(Message("user", asked)), Draft(Message("assistant", "", tool_calls=calls))]


def answered(fields: Fields, answer: str, has_tools: bool, is_continued: bool = False) -> list[Draft]:
    """Read the field of the answer.

    Args:
        fields: Of the row.
        answer: Its name.
        has_tools: Whether the row has tools, so that calls in its text are calls.
        is_continued: Whether the question ends with the answer's mark, behind which it begins with a space.
    """
    if are_turns(fields.values[fields.key(answer)]):
        return read_turns(fields, answer, has_tools)
    text = read_answer(fields, answer)
    message = Message("assistant", text.strip() if is_continued else text, reasoning=reasoning_in(fields))
    return [with_calls(Draft(message), fields) if has_tools else Draft(message)]


def with_calls(draft: Draft, fields: Fields) -> Draft:
    """Take the calls out of the text of an answer."""
    if draft.message.role != "assistant" or draft.message.tool_calls:
        return draft
    text, calls = calls_in_text(draft.message.content, fields, "tool_call")
    return Draft(replace(draft.message, content=text, tool_calls=calls), draft.pictures)


def _asked(fields: Fields, question: str, has_tools: bool) -> tuple[list[Draft], bool]:
    """Return the question, and whether it ends with the mark behind which the answer begins."""
    if are_turns(fields.values[fields.key(question)]):
        turns = read_turns(fields, question, has_tools)
        return [Draft(_as_context(draft.message), draft.pictures) for draft in turns], False
    text = text_of(fields.take(question, "question"), fields.key(question))
    # Dolly calls Alpaca's input context.
    extra = "context" if question == "instruction" and not fields.has("input") else "input"
    if question != "input" and fields.has(extra):
        purpose = "part of the question, after it"
        beside = parsed_cell(fields.take(extra, purpose)) if fields.is_chosen(extra) else fields.take(extra, purpose)
        if isinstance(beside, list | tuple) and all(isinstance(one, str) for one in beside):  # passages, a line each
            beside = "\n".join(beside)
        text = f"{text}\n{text_of(beside, fields.key(extra))}"
    if (turns_inside := asked_in_turns(text)) is not None:
        fields.note("(turns written into the question)", "turns of their own")
        return [Draft(message) for message in turns_inside], True
    if turns_written_in(text) is not None:
        fields.note("(speakers' marks in the question)", "text: it does not end with the mark of who is to answer")
    return [Draft(Message("user", text))], False


def _as_context(message: Message) -> Message:
    """Of prompt and completion only the latter is trained."""
    return replace(message, is_trained=False) if message.role == "assistant" else message


def _history(fields: Fields) -> Sequence[Draft]:
    """Read earlier turns: pairs of question and answer, or turns with roles."""
    if not fields.has("history"):
        return []
    name = fields.key("history")
    value = parsed_cell(fields.values[name])
    if are_turns(value):
        return [Draft(_as_context(draft.message), draft.pictures) for draft in read_turns(fields, "history", False)]
    fields.take("history", "earlier turns")
    drafts = []
    for turn in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise UnusableError(
                f'"{name}" is not a list of [question, answer] pairs', 'write it as [["question", "answer"], ...]'
            )
        drafts += [Draft(Message("user", text_of(turn[0], name))), Draft(Message("assistant", text_of(turn[1], name)))]
    return drafts
