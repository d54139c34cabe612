"""From a conversation to masked token ids."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from lorakit.data_processing.example import EncodedExample, Example, Rejected
from lorakit.data_processing.images import ImageError
from lorakit.data_processing.templates.chat_format import ChatFormat, check_all_pictures
from lorakit.data_processing.templates.chat_template import TemplateError, Turn
from lorakit.data_processing.templates.text_encoding import GUARD, SeamError
from lorakit.engine import IGNORED_LABEL, Picture


@dataclass(frozen=True)
class EncodedRow:
    """What became of one row.

    Attributes:
        sequences: Usually one; several where the template rewrites history, so that each answer keeps the prompt it
            will meet at inference.
        is_cut: Whether prompt tokens were cut off to fit `max_length`.
    """

    sequences: tuple[EncodedExample, ...]
    is_cut: bool


@dataclass(frozen=True)
class _Limits:
    max_length: int
    trains_reasoning: bool


def encode_row(
    example: Example, chat_format: ChatFormat, max_length: int, trains_reasoning: bool = True
) -> EncodedRow | Rejected:
    """Encode a row so that only its answers and their end-of-turn tokens carry loss.

    Args:
        example: The conversation.
        chat_format: Of the model's tokenizer.
        max_length: In tokens. Longer sequences lose the beginning of their prompt.
        trains_reasoning: Whether the reasoning of answers carries loss.

    Returns:
        The encoded row, or the reason why it cannot be trained.
    """
    return encode_rows([example], chat_format, max_length, trains_reasoning)[0]


def encode_rows(
    examples: Sequence[Example], chat_format: ChatFormat, max_length: int, trains_reasoning: bool = True
) -> list[EncodedRow | Rejected]:
    """Encode rows as `encode_row` does, many times as fast as one by one."""
    limits = _Limits(max_length, trains_reasoning)
    written = [_written(example, chat_format) for example in examples]
    turns = [turn for outcome in written if not isinstance(outcome, Rejected) for turn in outcome]
    try:
        ids = iter(chat_format.encode_turns(turns))
    except SeamError as refusal:
        if len(examples) == 1:
            return [Rejected(examples[0].origin, refusal.message, refusal.hint)]
        return [encode_row(example, chat_format, max_length, trains_reasoning) for example in examples]
    return [
        outcome
        if isinstance(outcome, Rejected)
        else _encoded_row(example, outcome, list(islice(ids, len(outcome))), chat_format, limits)
        for example, outcome in zip(examples, written, strict=True)
    ]


def _written(example: Example, chat_format: ChatFormat) -> list[Turn] | Rejected:
    """Render a row's turns, or say why it cannot be trained."""
    for message in example.messages:
        if any(GUARD in text for text in message.texts):
            return Rejected(example.origin, f"holds U+{ord(GUARD):X}, which is no character; remove it from the text")
        if message.role != "assistant":  # elsewhere a control token stays text
            continue
        token = next(filter(None, map(chat_format.control_token_in, message.texts)), None)
        if token is not None:
            return Rejected(
                example.origin,
                f"spells out the control token {token!r} in an answer; remove it, or set allow_tokens",
                f'where it belongs into answers, set allow_tokens: ["{token}"]; else remove it from the text',
            )
    try:
        return list(chat_format.turns(example.messages))
    except TemplateError as refusal:
        return Rejected(example.origin, refusal.message, refusal.hint)


def _encoded_row(
    example: Example,
    turns: Sequence[Turn],
    ids: Sequence[tuple[list[int], list[int]]],
    chat_format: ChatFormat,
    limits: _Limits,
) -> EncodedRow | Rejected:
    max_length = limits.max_length
    try:
        whole = list(_sequences(example, turns, ids, chat_format, limits.trains_reasoning))
    except (TemplateError, ImageError) as refusal:
        return Rejected(example.origin, refusal.message, refusal.hint)
    fitted = [_fit(sequence, max_length, chat_format.tokenizer.bos_token_id) for sequence in whole]
    if None in fitted:
        return Rejected(example.origin, _why_it_does_not_fit(whole, max_length))
    sequences = tuple(sequence for sequence in fitted if sequence is not None)
    is_cut = any(len(short.input_ids) < len(full.input_ids) for short, full in zip(sequences, whole, strict=True))
    return EncodedRow(sequences, is_cut)


def _why_it_does_not_fit(sequences: list[EncodedExample], max_length: int) -> str:
    in_pictures = max(sum(picture.tokens for picture in sequence.pictures) for sequence in sequences)
    if in_pictures:
        longest = max(len(sequence.input_ids) for sequence in sequences)
        return (
            f"its {longest} tokens, {in_pictures} of them pictures, which are never cut, do not fit "
            f"max_length {max_length}; raise max_length or lower max_pixels"
        )
    longest = max(sequence.targets for sequence in sequences)
    return f"its answer of {longest} tokens does not fit max_length {max_length}; raise max_length"


def _sequences(
    example: Example,
    turns: Sequence[Turn],
    ids: Sequence[tuple[list[int], list[int]]],
    chat_format: ChatFormat,
    trains_reasoning: bool,
) -> Iterator[EncodedExample]:
    pictures = chat_format.pictures(example.messages)
    input_ids: list[int] = []  # through the end of the last answer
    labels: list[int] = []
    rest: list[int] = []  # what the template writes after it
    for turn, (prompt, answer) in zip(turns, ids, strict=True):
        if prompt[: len(input_ids)] != input_ids:  # the template has rewritten what stood before
            if any(label != IGNORED_LABEL for label in labels):
                yield _encoded(
                    input_ids + rest, labels + [IGNORED_LABEL] * len(rest), example.origin, chat_format, pictures
                )
            input_ids, labels = [], []
        end = _end_of_answer(answer, chat_format, turn.has_calls)
        begin = 0 if trains_reasoning else chat_format.tokens_before(answer, turn.thought)
        labels += [IGNORED_LABEL] * (len(prompt) - len(input_ids))
        begin = begin if turn.is_trained else end
        labels += [IGNORED_LABEL] * begin + answer[begin:end]
        input_ids, rest = prompt + answer[:end], answer[end:]
    last = _encoded(input_ids + rest, labels + [IGNORED_LABEL] * len(rest), example.origin, chat_format, pictures)
    check_all_pictures(last.picture_starts, pictures)
    yield last


def _encoded(
    input_ids: list[int], labels: list[int], origin: str, chat_format: ChatFormat, pictures: tuple[Picture, ...]
) -> EncodedExample:
    input_ids, labels, starts = chat_format.expanded(input_ids, labels, pictures)
    return EncodedExample(array("i", input_ids), array("i", labels), origin, pictures[: len(starts)], starts)


def _end_of_answer(answer: list[int], chat_format: ChatFormat, has_calls: bool) -> int:
    """Count the tokens up to and with the end of turn; what the template writes after it is not generated."""
    ends = {chat_format.end_of_turn_id}
    if has_calls and not ends.intersection(answer):  # such as gpt-oss, whose calls end with a token of their own
        ends = chat_format.control_ids
    place = next((place for place in range(len(answer), 0, -1) if answer[place - 1] in ends), None)
    if place is None:
        raise TemplateError("the chat template does not end this answer with its end-of-turn token")
    return place


def _fit(sequence: EncodedExample, max_length: int, begin_id: int | None) -> EncodedExample | None:
    """Cut the beginning so that the sequence fits; None where the last answer or a picture would lose a token."""
    excess = len(sequence.input_ids) - max_length
    last_target = sequence.last_target
    trailing = len(sequence.labels) - 1 - last_target
    if trailing and excess > 0:  # what the template writes after the end of turn goes first
        sequence = replace(
            sequence, input_ids=sequence.input_ids[: last_target + 1], labels=sequence.labels[: last_target + 1]
        )
        excess -= trailing
    if excess <= 0:
        return sequence
    labels = sequence.labels
    first_of_last = last_target
    while labels[first_of_last - 1] != IGNORED_LABEL:
        first_of_last -= 1
    # A begin-of-sequence token stays: models such as Llama attend to it everywhere. One that also opens turns
    # (ChatML's <|im_start|> in some tokenizers) is not meant.
    kept = 1 if sequence.input_ids[0] == begin_id and sequence.input_ids.count(begin_id) == 1 else 0
    start = excess + kept
    if start >= first_of_last:  # at least one token of prompt must remain
        return None
    while labels[start] != IGNORED_LABEL:  # the rest of an answer cut apart goes with its prompt
        start += 1
    if sequence.picture_starts and sequence.picture_starts[0] - 1 < start:  # 1 for the token that opens it
        return None
    return replace(
        sequence,
        input_ids=sequence.input_ids[:kept] + sequence.input_ids[start:],
        labels=labels[:kept] + labels[start:],
        picture_starts=tuple(first - start + kept for first in sequence.picture_starts),
    )
