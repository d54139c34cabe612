"""The constant texts of a chat format around system prompt, questions and answers, found by rendering."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from lorakit.data_processing import ChatFormat, Message
from lorakit.data_processing.example import Role
from lorakit.data_processing.templates.chat_template import TemplateError
from lorakit.export.gguf.tokenizer import begins_with_bos

_NAMES = ("system", "first question", "first answer", "second question", "second answer", "third question")
_PROBES, _OTHERS = ([f"{word}{name.replace(' ', '')}{word}" for name in _NAMES] for word in ("lorakit", "Zq"))
_THOUGHT = "<think>\nlorakitthought\n</think>\n\n"


@dataclass(frozen=True)
class TurnPieces:
    """A conversation is ``begin``, the system prompt or what stands in its place, questions, answers, ``prompt``.

    Attributes:
        begin: Before everything.
        system: Before and after a system prompt; None where the format takes none.
        without_system: In its place where there is none: a default of the format's own, or nothing.
        before_user: Before a question.
        after_user: After a question.
        before_answer: Before an answer that was given.
        after_answer: After it, its end of turn included.
        prompt: Before an answer that is to be given.
    """

    begin: str
    system: tuple[str, str] | None
    without_system: str
    before_user: str
    after_user: str
    before_answer: str
    after_answer: str
    prompt: str

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them."""
        turns = (self.before_user, self.after_user, self.before_answer, self.after_answer, self.prompt)
        return (self.begin, self.without_system, *(self.system or ()), *turns)

    def render(self, messages: Sequence[Message]) -> str:
        """Write a conversation that ends with a question."""
        around = {"user": (self.before_user, self.after_user), "assistant": (self.before_answer, self.after_answer)}
        has_system = messages[0].role == "system"
        around["system"] = self.system or ("", "")
        head = "" if has_system else self.without_system
        turns = [around[message.role][0] + message.content + around[message.role][1] for message in messages]
        return "".join((self.begin, head, *turns, self.prompt))


def find_pieces(chat_format: ChatFormat, thinking: bool) -> TurnPieces | None:
    """Find the pieces of a chat format.

    Args:
        chat_format: Of the model.
        thinking: Whether a reasoning model thinks before it answers.

    Returns:
        Pieces that write conversations as the format does, without the beginning that llama.cpp's tokenizer adds
        itself; None where no pieces do.
    """
    if chat_format.writes_today:
        return None
    system, *turns = _conversation(_PROBES)
    try:
        plain = _between(_prompt(chat_format, turns[:3], thinking), _PROBES[1:4])
        with_system = _with_system(chat_format, [system, turns[0]], thinking)
        pieces = _pieces(plain, with_system, chat_format.end_of_turn)
        return pieces if pieces is not None and _is_right(pieces, chat_format, thinking) else None
    except TemplateError:  # one that takes a single question only
        return None


def _conversation(contents: Sequence[str]) -> list[Message]:
    roles: tuple[Role, ...] = ("system", "user", "assistant", "user", "assistant", "user")
    return [Message(role, content) for role, content in zip(roles, contents, strict=True)]


def _prompt(chat_format: ChatFormat, messages: Sequence[Message], thinking: bool) -> str:
    answer = Message("assistant", (_THOUGHT if thinking else "") + "a")
    text = "".join([turn.prompt for turn in chat_format.turns([*messages, answer])][-1])
    begin = str(chat_format.tokenizer.bos_token)
    return text.removeprefix(begin) if begins_with_bos(chat_format) else text


def _with_system(chat_format: ChatFormat, messages: Sequence[Message], thinking: bool) -> list[str] | None:
    try:
        return _between(_prompt(chat_format, messages, thinking), _PROBES[:2])
    except TemplateError:  # the format has no system prompt
        return None


def _between(text: str, contents: Sequence[str]) -> list[str] | None:
    """Return what stands before, between and after the contents, if each is there once and in order."""
    parts = re.split("|".join(map(re.escape, contents)), text)
    return parts if text == "".join(a + b for a, b in zip(parts, [*contents, ""], strict=False)) else None


def _pieces(plain: list[str] | None, with_system: list[str] | None, end: str) -> TurnPieces | None:
    """Cut what stands between two contents into the end of one turn and the beginning of the next."""
    if plain is None:
        return None
    first, to_answer, to_question, to_prompt = plain
    befores = [first, to_question] + ([with_system[1]] if with_system else [])
    before_user = _second_half(_common_end(befores), end)
    after_user = _first_half(_common_beginning([to_answer, to_prompt]), end)
    begin, without_system, system = "", first.removesuffix(before_user), None
    if with_system is not None:
        if with_system[0].startswith(without_system):  # a beginning of every text, no default system prompt
            begin, without_system = without_system, ""
        system = (with_system[0].removeprefix(begin), with_system[1].removesuffix(before_user))
    return TurnPieces(
        begin,
        system,
        without_system,
        before_user,
        after_user,
        to_answer.removeprefix(after_user),
        to_question.removesuffix(before_user),
        to_prompt.removeprefix(after_user),
    )


def _common_end(texts: Sequence[str]) -> str:
    return _common_beginning([text[::-1] for text in texts])[::-1]


def _common_beginning(texts: Sequence[str]) -> str:
    return "".join(
        letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    )


def _first_half(text: str, end: str) -> str:
    """The part of a text between turns that ends one: to its end of turn and the white space after that."""
    match = re.match(rf"(?s)(?:.*{re.escape(end)})?\s*", text)
    assert match is not None  # it matches nothing too
    return match.group()


def _second_half(text: str, end: str) -> str:
    return text.removeprefix(_first_half(text, end))


def _is_right(pieces: TurnPieces, chat_format: ChatFormat, thinking: bool) -> bool:
    """Hold the pieces to the format itself, with other contents and more turns than they were found with."""
    system, *turns = _conversation(_OTHERS)
    conversations = [turns[:1], turns[:3], turns]
    if pieces.system is not None:
        conversations += [[system, *conversation] for conversation in conversations]
    return all(
        pieces.render(conversation) == _prompt(chat_format, conversation, thinking) for conversation in conversations
    )
