"""``replay``: what the base answers to general questions is trained beside the rows, so that less is forgotten.

The base answers before training, greedily and with the adapter off, and its own tokens are what is trained: nothing is
encoded anew, and an answer that came to no end teaches none. The answers stay in the run's folder, and a run that goes
on takes them from there.

Source: replayed answers of the model itself, openreview.net/forum?id=AmQVxvyRJC.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import EncodedExample, Example, Message
from lorakit.engine import IGNORED_LABEL
from lorakit.errors import DataError, RunError, SettingsError
from lorakit.incoming import leads_out, read_whole
from lorakit.inference import Assistant
from lorakit.inference.generation import answer_ids, answer_text
from lorakit.inference.questions import read_questions
from lorakit.inference.sampling import SamplingParams
from lorakit.outgoing import strict_json
from lorakit.runs import REPLAY_FILE, RunIdentity, write_own_lines
from lorakit.train.setup.general_questions import QUESTIONS

_MOST_NEW_TOKENS = 128
_FEWEST_NEW_TOKENS = 8
_REMEDY = "put the file back as it was, or train without resume"


class _Line(BaseModel):
    """One answer, as the file has it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    text: str
    generated: str
    prompt_ids: list[int]
    answer_ids: list[int]


@dataclass(frozen=True)
class Replayed:
    """General questions with the base's answers.

    Attributes:
        lines: One for each question.
    """

    lines: tuple[_Line, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    @cached_property
    def rows(self) -> tuple[tuple[Example, EncodedExample], ...]:
        """Each as a conversation, and as the sequence that is trained."""
        return tuple(_row(line, f"replay question {number}") for number, line in enumerate(self.lines, start=1))

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(len(sequence.input_ids) for _, sequence in self.rows)

    @property
    def digest(self) -> str | None:
        """SHA-256 of the token ids, which are what is trained; None where there are none."""
        ids = strict_json([[line.prompt_ids, line.answer_ids] for line in self.lines])
        return hashlib.sha256(ids.encode()).hexdigest() if self.lines else None


def _row(line: _Line, origin: str) -> tuple[Example, EncodedExample]:
    labels = [IGNORED_LABEL] * len(line.prompt_ids) + line.answer_ids
    sequence = EncodedExample(array("i", line.prompt_ids + line.answer_ids), array("i", labels), origin)
    return Example((Message("user", line.text), Message("assistant", line.generated)), origin), sequence


def general_questions(config: Config) -> tuple[str, ...]:
    """Return the questions that a run asks its base: the first so many of ``replay_file``, or of those brought along.

    Raises:
        LorakitError: The file cannot be read, or has too few questions or none of text alone.
    """
    if not config.replay:
        return ()
    questions = QUESTIONS if config.replay_file is None else _questions_of(config.replay_file, config)
    if len(questions) < config.replay:
        whose = config.replay_file or "the list that lorakit brings"
        raise SettingsError(
            f"replay: {config.replay} questions are wanted where {whose} has {len(questions)}",
            "lower replay, or name a replay_file with more",
        )
    return tuple(questions[: config.replay])


def _questions_of(file: str, config: Config) -> list[str]:
    found = []
    for number, question in enumerate(read_questions(file, config, takes_pictures=False)[: config.replay], start=1):
        turns = question.asked
        if not isinstance(turns, tuple) or len(turns) != 1 or turns[0].role != "user":
            raise DataError(
                f"{file}: question {number} of replay_file is no single question of text",
                'have one a row, such as {"text": "question"}',
            )
        found.append(turns[0].content)
    return found


def answers_of_base(assistant: Assistant, questions: Sequence[str], config: Config) -> Replayed:
    """Let the base answer.

    Args:
        assistant: With a new adapter or none.
        questions: What it is asked.
        config: For the length of answers, and how many are written at once.

    Raises:
        SettingsError: ``max_length`` leaves no room for answers.
    """
    prompts = [assistant.prompt_ids([Message("user", question)]) for question in questions]
    greedy = SamplingParams(_longest_answer(assistant, prompts, config))
    at_once = config.per_device_eval_batch_size
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    answers: dict[int, tuple[int, ...]] = {}
    with console.progress(len(order), "asking the base general questions") as bar, assistant.without_adapter():
        for start in range(0, len(order), at_once):
            places = order[start : start + at_once]
            asked = [[Message("user", questions[place])] for place in places]
            found = answer_ids(assistant, asked, greedy, prompts=[prompts[place] for place in places])
            answers |= dict(zip(places, found, strict=True))
            bar.update(start + len(places))
    return Replayed(
        tuple(
            _Line(
                text=question,
                generated=answer_text(assistant, answers[place], has_tools=False),
                prompt_ids=[int(token) for token in prompts[place]],
                answer_ids=[int(token) for token in answers[place]],
            )
            for place, question in enumerate(questions)
        )
    )


def stand_ins(assistant: Assistant, questions: Sequence[str], config: Config) -> Replayed:
    """Return answers as long as they may become, for a plan that asks nothing."""
    prompts = [assistant.prompt_ids([Message("user", question)]) for question in questions]
    filler = [assistant.stop_ids[0]] * _longest_answer(assistant, prompts, config)
    return Replayed(
        tuple(
            _Line(text=question, generated="", prompt_ids=[*prompt], answer_ids=filler)
            for question, prompt in zip(questions, prompts, strict=True)
        )
    )


def _longest_answer(assistant: Assistant, prompts: Sequence[Sequence[int]], config: Config) -> int:
    """Return how many tokens an answer may have, so that no row is longer than one of the user's may be."""
    longest = max(map(len, prompts))
    limit = getattr(assistant.bundle.model.config.get_text_config(), "max_position_embeddings", None)
    room = min(config.max_length, limit or config.max_length) - longest
    if room < _FEWEST_NEW_TOKENS:
        raise SettingsError(
            f"replay: a question of {longest} tokens leaves no room for an answer (max_length {config.max_length})",
            "raise max_length, or set replay: 0",
        )
    return min(room, _MOST_NEW_TOKENS)


def save_replayed(replayed: Replayed, folder: Path, mark: str) -> None:
    """Write the answers into a run's folder, with its mark; in their texts secrets are hidden."""
    write_own_lines(folder, REPLAY_FILE, [{"run": mark}, *(line.model_dump() for line in replayed.lines)])


def read_replayed(folder: Path, identity: RunIdentity) -> Replayed:
    """Read the answers that a run trains.

    Raises:
        RunError: They are missing, or not as that run left them.
    """
    file = folder / REPLAY_FILE
    try:
        text = "" if leads_out(file) else read_whole(file).decode()
        head, _, lines = text.partition("\n")
        # Not splitlines(): it also breaks at characters that may stand inside a JSON string.
        replayed = Replayed(tuple(_Line.model_validate_json(line) for line in lines.split("\n") if line))
        is_own = json.loads(head) == {"run": identity.mark} and replayed.digest == identity.replayed
    except (OSError, ValueError, ValidationError, RecursionError):
        is_own = False
    if not is_own:
        raise RunError(f"{file}: the answers of the base that this run trains are missing or changed", _REMEDY)
    return replayed
