"""What a row is on its way from a file to the model."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Literal

from lorakit.data_processing.reasoning import split_reasoning
from lorakit.engine import IGNORED_LABEL, Picture

Role = Literal["tools", "system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ToolCall:
    """A function that an assistant calls.

    Attributes:
        name: Of the function.
        arguments: A JSON object, as text: equal calls are equal, however their file wrote them.
        call_id: By which a result names its call; None where the row has none.
    """

    name: str
    arguments: str
    call_id: str | None = None


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who speaks. ``tools`` is no turn: it stands before all others, and its content, a JSON list, has the
            functions that may be called. ``tool`` is the result of a call.
        content: The text; where there are pictures, with as many marks ``<image>`` where they belong.
        images: Paths of pictures, in the order of their marks.
        is_trained: Whether an assistant's turn carries loss; None where nothing says so, and it does.
        reasoning: What an assistant thinks before it answers, where the row has it apart from the answer.
        tool_calls: What an assistant calls, after its content.
        name: Of who speaks, or of the function whose result this is, where the row has it.
        call_id: Of the call whose result this is, where the row has it.
    """

    role: Role
    content: str
    images: tuple[str, ...] = ()
    is_trained: bool | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    call_id: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """All text of the turn that comes from its row."""
        calls = (text for call in self.tool_calls for text in (call.name, call.arguments))
        return (self.content, self.reasoning or "", self.name or "", *calls)

    @property
    def reasons(self) -> bool:
        """Whether an answer has reasoning before it."""
        return bool(self.reasoning) or split_reasoning(self.content)[0] is not None


@dataclass(frozen=True)
class Example:
    """One row: a conversation that ends with an answer.

    Attributes:
        messages: At least one of them is an assistant's.
        origin: Where the row stands, such as ``data/train.json item 17``; it travels with every complaint.
    """

    messages: tuple[Message, ...]
    origin: str


@dataclass(frozen=True)
class EncodedExample:
    """A row as token ids.

    Attributes:
        input_ids: [tokens], in an array of machine integers: a tuple would take nine times the memory.
        labels: [tokens], `IGNORED_LABEL` on everything that is not answer.
        origin: Where the row stands.
        pictures: In order.
        picture_starts: The index of each picture's first token.
        seed: For the random numbers of this row in one step; None where they are those of the process.
    """

    input_ids: array[int]
    labels: array[int]
    origin: str
    pictures: tuple[Picture, ...] = ()
    picture_starts: tuple[int, ...] = ()
    seed: int | None = None

    @property
    def targets(self) -> int:
        """How many tokens carry loss; the first has nothing before it to be predicted from."""
        return sum(label != IGNORED_LABEL for label in self.labels[1:])

    @property
    def last_target(self) -> int:
        """The index of the last token that carries loss; 0 where none does."""
        indices = reversed(range(len(self.labels)))
        return next((index for index in indices if self.labels[index] != IGNORED_LABEL), 0)


@dataclass(frozen=True)
class Rejected:
    """A row that is not used, why, and what can be done about it where that is not in the reason."""

    origin: str
    reason: str
    hint: str | None = None


class UnusableError(ValueError):
    """A row cannot be used; the text says why."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


def shortened(text: str, most: int = 200) -> str:
    """Return the first line of a text as far as a message can bear it: fields and file names come from anywhere."""
    line = " ".join(text[: most + 1].split())
    return line if len(line) <= most else line[: most - 3] + "..."
