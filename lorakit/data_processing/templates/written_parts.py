"""A conversation in parts: what is the same in all of its shape, as token ids, and the texts between.

`parts_of` does for texts that are not known yet what `lorakit.data_processing.tokens.encoding` does for those of a row;
it gives up where the outcome would depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from lorakit.data_processing.example import Message
from lorakit.data_processing.templates.written_shapes import Notes, Pieces, WrittenShape

# A special token, or a text between two of them with the numbers of contents in it.
Atom = str | Pieces
SplitPieces = Callable[[Pieces], "list[Atom] | None"]
# A text, and the two that stand in its place elsewhere.
Seam = tuple[Pieces, Pieces, Pieces]


@dataclass(frozen=True)
class Part:
    """An atom of a sequence, and whether it carries loss."""

    atom: Atom
    is_trained: bool


@dataclass(frozen=True)
class Ends:
    """How answers end.

    Attributes:
        end_of_turn: The token.
        appended: What stands behind every answer that the template writes.
        odd: Characters that no text holds.
    """

    end_of_turn: str
    appended: str
    odd: Collection[str]


@dataclass(frozen=True)
class ConversationParts:
    """How conversations of one shape are written.

    Attributes:
        notes: What must be true of the text of a turn, by its number.
        sequences: The parts of each sequence of tokens.
        seams: Texts that must have the tokens of their two halves: an earlier answer, which inference meets as one text
            with what stands before it.
    """

    notes: tuple[tuple[int, Notes], ...]
    sequences: tuple[tuple[Part, ...], ...]
    seams: tuple[Seam, ...]


def parts_of(
    messages: Sequence[Message],
    shape_of: Callable[[Sequence[str]], WrittenShape | None],
    split: SplitPieces,
    ends: Ends,
) -> ConversationParts | None:
    """Take a conversation apart; None where the texts decide how.

    Args:
        messages: Of its shape.
        shape_of: From roles to what the chat template makes of them.
        split: Cuts pieces at special tokens.
        ends: How answers end.
    """
    notes: dict[tuple[int, int], tuple[int, Notes]] = {}
    sequences: list[list[Part]] = []
    now, rest = list[Part](), list[Part]()
    seams: list[Seam] = []
    roles = [message.role for message in messages]
    first = next((place for place, message in enumerate(messages) if message.role == "user"), 0)
    for place, message in enumerate(messages):
        if message.role != "assistant" or place < first:
            continue
        shape = shape_of(roles[: place + 1])
        turn = None if shape is None else _turn(shape, split, ends)
        if shape is None or turn is None:
            return None
        notes.update(((place, number), (number, one)) for number, one in enumerate(shape.notes) if one.asked)
        prompt, answer, after = turn
        found = _continued([part.atom for part in now], prompt, ends.odd)
        if found is None:
            return None
        if (met := found[0]) < 0:  # the template has rewritten what stood before
            if any(part.is_trained for part in now):
                sequences.append(now + rest)
            now, met = [], 0
        seams += found[1]
        now = [*now, *(Part(atom, False) for atom in prompt[met:])]
        now += [Part(atom, message.is_trained is not False) for atom in answer]
        rest = [Part(atom, False) for atom in after]
    sequences.append(now + rest)
    return ConversationParts(tuple(notes.values()), tuple(map(tuple, sequences)), tuple(seams))


def _turn(shape: WrittenShape, split: SplitPieces, ends: Ends) -> tuple[list[Atom], list[Atom], list[Atom]] | None:
    """Return prompt, answer up to its end of turn, and what follows that."""
    behind = _behind(shape.prompt, shape.written)
    if behind is None:
        return None
    prompt, answer = split(shape.prompt), split(_merged((*behind, ends.appended)))
    if prompt is None or answer is None or ends.end_of_turn not in answer:
        return None
    end = len(answer) - answer[::-1].index(ends.end_of_turn)
    if any(not isinstance(piece, str) for atom in answer[end:] for piece in atom):
        return None
    return prompt, answer[:end], answer[end:]


def _behind(prompt: Pieces, written: Pieces) -> Pieces | None:
    """Return what stands behind a prompt in the whole; None where the whole does not begin with it."""
    whole = len(prompt) - 1
    if whole < 0 or prompt[:whole] != written[:whole] or len(written) <= whole:
        return None
    last, other = prompt[whole], written[whole]
    if last == other:
        return written[whole + 1 :]
    if isinstance(last, str) and isinstance(other, str) and other.startswith(last):
        return (other[len(last) :], *written[whole + 1 :])
    return None


def _continued(now: Sequence[Atom], prompt: Sequence[Atom], odd: Collection[str]) -> tuple[int, list[Seam]] | None:
    """Say how many atoms of a prompt are what there is already, and with which seams.

    Returns:
        -1 where the prompt begins otherwise, whatever the texts; None where they decide.
    """
    place = met = 0
    seams: list[Seam] = []
    while place < len(now):
        if met == len(prompt):
            return -1, []
        old, new = now[place], prompt[met]
        following = now[place + 1] if place + 1 < len(now) else ""
        if old == new:
            place += 1
        elif not isinstance(old, str) and not isinstance(following, str) and _merged((*old, *following)) == new:
            seams.append((new, old, following))
            place += 2
        else:
            return (-1, []) if _differ(old, new, odd) else None
        met += 1
    return met, seams


def _differ(old: Atom, new: Atom, odd: Collection[str]) -> bool:
    """Tell whether two atoms are different whatever the texts are, which hold no odd characters."""
    if isinstance(old, str) or isinstance(new, str):
        return True  # one of them is a special token, the other is another one or has none
    first, second = old[0], new[0]
    if not isinstance(first, str) or not isinstance(second, str):
        return False
    shorter, longer = sorted((first, second), key=len)
    if not longer.startswith(shorter):
        return True
    following = (old if first == shorter else new)[1:2]
    return bool(following) and isinstance(following[0], int) and longer[len(shorter) :][:1] in odd


def _merged(pieces: Pieces) -> Pieces:
    """Join texts that stand side by side, and leave out empty ones."""
    merged: list[str | int] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        elif piece != "":
            merged.append(piece)
    return tuple(merged)
