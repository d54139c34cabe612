"""Many questions at once, or one from the command line: JSON Lines in, JSON Lines out, in order, to be gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, TextIO

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import Message
from lorakit.data_processing.example import Rejected
from lorakit.data_processing.field_names import is_asked
from lorakit.data_processing.files.opening import Reading, read_rows
from lorakit.data_processing.ledger import Ledger, field_lines
from lorakit.data_processing.raw import RawRow, fault_of_size
from lorakit.data_processing.shapes.formats import RowRules, to_example
from lorakit.errors import DataError, LorakitError, RunError, SettingsError
from lorakit.incoming import read_whole
from lorakit.inference.assistant import Assistant
from lorakit.outgoing import strict_json

ANSWER_KEY, ERROR_KEY = "generated", "error"
_PLACEHOLDER = "."
_MOST_BYTES = 4_000_000_000  # of answers of an earlier run
# A question is a row without its answer: which field that would be.
_ANSWER_FIELDS = {
    "question": "answer",
    "prompt": "completion",
    "query": "response",
    "instruction": "output",
    "input": "output",
    "problem": "solution",
}


@dataclass(frozen=True)
class Question:
    """One question of a file.

    Attributes:
        fields: As the file has it; the answer is added to these.
        asked: The conversation that ends with it, or why there is none.
    """

    fields: dict[str, Any]
    asked: tuple[Message, ...] | Rejected


def answer_file_of(config: Config) -> Path:
    """Return the file that receives the answers to ``question_file``.

    Raises:
        SettingsError: It is a folder such as ``..``, beside which no file could be called like it.
    """
    if config.answer_file:
        return Path(config.answer_file)
    questions = Path(str(config.question_file))
    if not questions.stem.strip("."):
        raise SettingsError(f"question_file: {str(questions)!r} has no name that answers could take", "set answer_file")
    return questions.with_suffix(".answers.jsonl")


def answer_questions(assistant: Assistant, config: Config) -> None:
    """Answer every row of ``question_file``; go on where an earlier run has stopped.

    Raises:
        LorakitError: The file cannot be read, the answers there are to other questions, or questions could not be
            answered; they are in the file with the reason.
    """
    file = answer_file_of(config)
    questions = read_questions(str(config.question_file), config, assistant.chat_format.images is not None)
    with _naming(file):
        done = _answered(file, questions)
    if done:
        console.note(f"{file}: {done} of {len(questions)} are answered already")
    failed = 0
    with _opened(file) as answers, console.progress(len(questions), "answering") as bar:
        for start in range(done, len(questions), config.per_device_eval_batch_size):
            batch = questions[start : start + config.per_device_eval_batch_size]
            found_all = list(_answers(assistant, batch, config, start))
            assistant.bundle.source.check_in_use()
            for found in found_all:
                failed += ERROR_KEY in found
                answers.write(strict_json(found) + "\n")
            answers.flush()
            bar.update(start + len(batch))
    console.note(f"answers: {file}")
    _refuse_some(str(file), failed, len(questions))


def read_questions(file: str, config: Config, takes_pictures: bool) -> list[Question]:
    """Read a file of rows as questions.

    Args:
        file: Its name.
        config: For the names of its fields.
        takes_pictures: Whether they may have pictures.

    Raises:
        LorakitError: The file cannot be read.
    """
    rules = RowRules.of(config, takes_pictures=takes_pictures)
    reading = Reading(config.encoding, frozenset(rules.renamed))
    ledger = Ledger(rules.ignored)
    questions = [_question(row, rules, ledger) for row in read_rows(file, reading)]
    _name_unused(file, ledger)
    return questions


def answer_lines(assistant: Assistant, config: Config) -> None:
    """Answer JSON Lines from standard input on standard output, each as it comes; see `answer_questions`."""
    rules = RowRules.of(config, takes_pictures=assistant.chat_format.images is not None)
    ledger = Ledger(rules.ignored)
    failed = asked = 0
    for number in count():
        origin = f"standard input line {number + 1}"
        try:
            if not (line := console.read_line()):
                break
            if not line.strip():
                continue
            question = _question(RawRow(json.loads(line), origin), rules, ledger)
        except console.LongLineError as error:
            question = Question({}, Rejected(origin, error.message))
        except (ValueError, RecursionError) as error:
            question = Question({}, Rejected(origin, f"is not JSON ({error})"))
        asked += 1
        [found] = _answers(assistant, [question], config, number)
        failed += ERROR_KEY in found
        console.stream(strict_json(found) + "\n")
    _name_unused("standard input", ledger)
    _refuse_some("standard input", failed, asked)


def _refuse_some(place: str, failed: int, asked: int) -> None:
    if failed:
        raise RunError(
            f"{place}: {failed} of {asked} questions could not be answered",
            f'"{ERROR_KEY}" says why, in the place of each answer',
        )


def _name_unused(place: str, ledger: Ledger) -> None:
    """Name the fields of questions that the model is not shown, and that nobody knows to be harmless."""
    for line in field_lines(tuple(fate for fate in ledger.fates() if not fate.is_meant)):
        console.warn(f"{place}: {line}")


def _question(row: RawRow | Rejected, rules: RowRules, ledger: Ledger) -> Question:
    if isinstance(row, Rejected):
        return Question({}, row)
    if (fault := fault_of_size(row)) is not None:
        return Question({}, Rejected(row.origin, fault))
    fields = {rules.text: row.fields} if isinstance(row.fields, str) else row.fields
    if not isinstance(fields, Mapping):
        return Question({}, Rejected(row.origin, "is neither text nor an object with fields"))
    given = {key: value for key, value in fields.items() if key not in (ANSWER_KEY, ERROR_KEY)}
    own = Ledger(rules.ignored)
    example = to_example(replace(row, fields=_with_answer(given, rules)), rules, own)
    if isinstance(example, Rejected):
        return Question(dict(fields), example)
    lost = tuple(fate for fate in own.fates() if fate.is_meant and is_asked(fate.place.rpartition(".")[2]))
    ledger.extend(own)
    return Question(dict(fields), Rejected(row.origin, "; ".join(field_lines(lost))) if lost else example.messages[:-1])


def _with_answer(fields: dict[str, Any], rules: RowRules) -> dict[str, Any]:
    """Add the answer that makes a question a row, for the readers of rows."""
    for turns, role, content in (("messages", "role", "content"), ("conversations", "from", "value")):
        if isinstance(listed := fields.get(turns), list):
            return {**fields, turns: [*_up_to_question(listed, role), {role: "assistant", content: _PLACEHOLDER}]}
    text = next((name for name in (rules.text, *_ANSWER_FIELDS) if name in fields), rules.text)
    target = rules.target if text == rules.text else _ANSWER_FIELDS[text]
    return {**fields, target: _PLACEHOLDER}


def _up_to_question(turns: Sequence[Any], role: str) -> list[Any]:
    kept = list(turns)
    while kept and isinstance(kept[-1], Mapping) and kept[-1].get(role) in ("assistant", "gpt", "model"):
        kept.pop()
    return kept


def _answers(assistant: Assistant, batch: Sequence[Question], config: Config, first: int) -> Iterator[dict[str, Any]]:
    """Answer a batch; a question that cannot be answered does not take the others with it."""
    from lorakit.inference.generation import answer_batch
    from lorakit.inference.sampling import SamplingParams

    askable = [place for place, question in enumerate(batch) if not isinstance(question.asked, Rejected)]
    outcome: dict[int, dict[str, str]] = {}
    try:
        conversations = [batch[place].asked for place in askable]
        seeds = [config.seed + first + place for place in askable]
        params = SamplingParams.of(config)
        texts = answer_batch(assistant, conversations, params, seeds) if askable else []  # type: ignore[arg-type]
        outcome = {place: {ANSWER_KEY: text} for place, text in zip(askable, texts, strict=True)}
    except LorakitError as error:
        if len(batch) > 1:
            for place in range(len(batch)):
                yield from _answers(assistant, batch[place : place + 1], config, first + place)
            return
        outcome = {0: {ERROR_KEY: error.message}}
    for place, question in enumerate(batch):
        reason = {ERROR_KEY: question.asked.reason} if isinstance(question.asked, Rejected) else {}
        yield {**question.fields, **outcome.get(place, reason)}


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    with _naming(file):
        only_added = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        descriptor = os.open(file, only_added | getattr(os, "O_NONBLOCK", 0), 0o666)  # a pipe that nobody reads
        os.set_blocking(descriptor, True)
        with os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace") as answers:  # half a character
            yield answers


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Say of which file it is what the system says of none, or of this one; a reader who has left is no fault."""
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename not in (None, str(file)):
            raise
        raise SettingsError(
            f"answer_file: {file}: {error.strerror}", "name a file in a folder that is there, with room on its disk"
        ) from error


def _answered(file: Path, questions: Sequence[Question]) -> int:
    """Count the answers that an earlier run has left, and cut off one that is half-written.

    Raises:
        RunError: They are not answers to these questions.
    """
    if not file.is_file():
        return 0
    text = read_whole(file, _MOST_BYTES)
    whole = text[: text.rfind(b"\n") + 1]
    lines = whole.decode("utf-8", "replace").split("\n")[:-1]  # splitlines() breaks at U+2028 and others too
    try:
        found = [json.loads(line) for line in islice(lines, len(questions) + 1)]
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: is not JSON Lines ({error})", "set answer_file, or remove that file") from error
    for answer, question in zip(found, questions, strict=False):
        if not isinstance(answer, dict) or _asked(answer) != _asked(question.fields):
            raise RunError(f"{file}: holds answers to other questions", "set answer_file, or remove that file")
    if len(found) > len(questions):
        raise RunError(f"{file}: holds more answers than there are questions", "set answer_file, or remove that file")
    if len(whole) < len(text):
        os.truncate(file, len(whole))  # to write the others anew would be to lose them where that is broken off
    return len(found)


def _asked(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in (ANSWER_KEY, ERROR_KEY)}
