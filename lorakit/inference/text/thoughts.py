"""Thoughts in what a model generates, where its family writes them with control tokens: channels, recipients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorakit.data_processing import ChatFormat, Message
from lorakit.data_processing.reasoning import CLOSING, OPENING
from lorakit.data_processing.templates.chat_template import TemplateError, Turn
from lorakit.data_processing.templates.text_encoding import SeamError

_THOUGHT, _PROBE = "lorakitthought", "lorakitprobe"
_TAG = "think>"
BEGUN, ENDED = f"{OPENING}\n", f"\n{CLOSING}\n\n"


@dataclass(frozen=True)
class ThoughtMarks:
    """The tokens that one family writes around a thought.

    Attributes:
        opening: Before a thought.
        closing: After it.
        saying: Before what is said, with a thought or without one; may be empty.
    """

    opening: tuple[int, ...]
    closing: tuple[int, ...]
    saying: tuple[int, ...]

    @classmethod
    def of(cls, chat_format: ChatFormat) -> ThoughtMarks | None:
        """Learn them from what the model's own template writes.

        Returns:
            None where it writes none, or the tags that `split_reasoning` finds in any text.
        """
        question = Message("user", "q")
        try:
            [plain] = chat_format.turns([question, Message("assistant", _PROBE)])
            [reasoned] = chat_format.turns([question, Message("assistant", _PROBE, reasoning=_THOUGHT)])
            opening, _, rest = reasoned.answer.partition(_THOUGHT)
            saying, between = plain.answer.partition(_PROBE)[0].rstrip(), rest.partition(_PROBE)[0].rstrip()
            closing = between.removesuffix(saying).strip()
            if _TAG in reasoned.answer or not opening.strip() or not closing or not between.endswith(saying):
                return None
            texts = (opening.rstrip(), closing, saying)
            encoded = chat_format.encode_turns([Turn(plain.prompt, text) for text in texts])
        except (TemplateError, SeamError):
            return None
        return cls(*(tuple(ids) for _, ids in encoded))


class ThoughtReader:
    """Reads an answer token by token, and gives its thought the tags that rows have: ``<think>`` and ``</think>``.

    Args:
        marks: Of its family; None lets everything through.
    """

    def __init__(self, marks: ThoughtMarks | None) -> None:
        self._marks = marks
        self._held: list[int] = []
        self._sought: dict[tuple[int, ...], str] = {}
        if marks is not None:
            self._sought = {marks.opening: BEGUN, marks.saying: ""}
        self._is_thinking = False

    def add(self, token: int) -> Iterator[int | str]:
        """Take one more token; yield tokens and tags that have become certain, in order."""
        self._held.append(token)
        yield from self._certain()

    def finish(self) -> Iterator[int | str]:
        """Yield what was held back."""
        yield from self._held
        self._held = []

    def _certain(self) -> Iterator[int | str]:
        while self._held:
            held = tuple(self._held)
            if held in self._sought:
                yield from self._found(held)
            elif any(mark[: len(held)] == held for mark in self._sought):
                return
            elif self._is_thinking:
                yield self._held.pop(0)
            else:  # what is said has begun
                self._sought = {}
                yield from self.finish()

    def _found(self, mark: tuple[int, ...]) -> Iterator[str]:
        assert self._marks is not None
        self._held = []
        if tag := self._sought[mark]:
            yield tag
        if self._is_thinking:
            self._is_thinking, self._sought = False, {self._marks.saying: ""}
        elif tag:
            self._is_thinking, self._sought = True, {self._marks.closing: ENDED}
        else:
            self._sought = {}


def read_thought(marks: ThoughtMarks | None, ids: Sequence[int]) -> list[int | str]:
    """Read a whole answer; see `ThoughtReader`."""
    reader = ThoughtReader(marks)
    return [*(piece for token in ids for piece in reader.add(token)), *reader.finish()]
