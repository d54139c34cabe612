"""What else an adapter has changed: a few general questions, answered with and without it.

The number that does not hang on single words: by how much the base's own answers are less likely, in nats a token.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import EncodedExample, Message
from lorakit.engine import IGNORED_LABEL
from lorakit.evaluate.comparison import dataset_loss
from lorakit.evaluate.metrics import without_reasoning
from lorakit.incoming import leads_out, read_whole
from lorakit.inference import Assistant
from lorakit.inference.generation import answer_ids, answer_text
from lorakit.inference.sampling import SamplingParams
from lorakit.report import Forgetting, GeneralAnswers, OneForgetting
from lorakit.runs import PREVIOUS, RESULTS_FILE, RunIdentity, read_identity

_MOST_NEW_TOKENS = 24
_FEWEST_NEW_TOKENS = 8  # shorter beginnings tell nothing
_WORTH_A_WORD = 0.1  # nats a token
_FEWEST_REPLAYED, _MOST_REPLAYED = 8, 100
_ROWS_FOR_ONE_REPLAYED = 4
_MOST_EARLIER_RUNS = 100
QUESTIONS = (
    "中国的首都是哪座城市？",
    "请把这句话翻译成英文：今天天气很好。",
    "十七加二十五等于多少？",
    "用一句话解释什么是光合作用。",
    "What is the capital of France?",
    "Name three primary colours.",
    "What is 12 times 8?",
    "Write one sentence about the sea.",
)


@dataclass(frozen=True)
class BaseAnswers:
    """What the base answers to the fixed questions.

    Attributes:
        texts: Without reasoning.
        sequences: Questions and answers, of which the answers carry loss.
        nats: The base's own loss over these, a token.
    """

    texts: tuple[str, ...]
    sequences: tuple[EncodedExample, ...]
    nats: float

    def forgotten(self, model: Any, device: Any) -> float:
        """Return by how much the answers are less likely to a tuned model, in nats a token."""
        return dataset_loss(model, self.sequences, device).mean - self.nats


def answers_of_base(assistant: Assistant, config: Config) -> BaseAnswers | None:
    """Ask the fixed questions of the base, greedily and briefly.

    Args:
        assistant: With or without an adapter.
        config: Its ``max_new_tokens`` is kept where it is smaller; where it is very small, nothing is asked.
    """
    longest = _longest_answer(config)
    if longest is None:
        return None
    prompts = [assistant.prompt_ids([Message("user", question)]) for question in QUESTIONS]
    with assistant.without_adapter():
        answers = _answered(assistant, longest, config)
        sequences = tuple(
            EncodedExample(
                array("i", [*prompt, *answer]), array("i", [IGNORED_LABEL] * len(prompt) + [*answer]), question
            )
            for prompt, answer, question in zip(prompts, answers, QUESTIONS, strict=True)
        )
        nats = dataset_loss(assistant.bundle.model, sequences, assistant.bundle.device).mean
    return BaseAnswers(_texts(assistant, answers), sequences, nats)


def forgetting(
    assistant: Assistant, config: Config, run_folder: Path, data: str, validation_loss: float
) -> Forgetting | None:
    """Ask the fixed questions of the base and of the tuned model.

    Args:
        assistant: With an adapter.
        config: For the answers.
        run_folder: Of the adapter's training; earlier runs are looked for in it.
        data: The rows that were evaluated.
        validation_loss: Of the tuned model on them.

    Returns:
        What came of it; None where answers are too short to tell anything.
    """
    with console.progress(None, "asking general questions"):
        base = answers_of_base(assistant, config)
        if base is None:
            return None
        tuned = _texts(assistant, _answered(assistant, _longest_answer(config) or 0, config))
        nats = base.forgotten(assistant.bundle.model, assistant.bundle.device)
    answers = tuple(GeneralAnswers(*texts) for texts in zip(QUESTIONS, base.texts, tuned, strict=True))
    identity = read_identity(run_folder)
    unchanged = sum(one.base == one.tuned for one in answers)
    own = OneForgetting(None, _replay_of(identity), nats, unchanged, len(answers), validation_loss)
    return Forgetting(answers, (own, *_earlier(run_folder, identity, data)))


def say_what_is_forgotten(found: Forgetting, rows: int) -> None:
    """Say in one line what else has changed, and what to do about it.

    Args:
        found: By an evaluation.
        rows: That were trained.
    """
    own = found.runs[0]
    console.note(
        f"of {own.questions} general questions {own.unchanged} are answered as before; what the base answered is "
        f"{own.nats:.2f} nats a token less likely"
    )
    if not own.replay:
        advise_replay(own.nats, rows)


def advise_replay(nats: float, rows: int) -> None:
    """Say how to forget less, where much is forgotten.

    Args:
        nats: By how much the base's answers are less likely, a token.
        rows: That are trained.
    """
    if nats > _WORTH_A_WORD:
        console.note(f"to forget less, train answers of the base too: --set replay={suggested_replay(rows)}")


def suggested_replay(rows: int) -> int:
    """Return how many answers of the base to train with so many rows."""
    return min(max(rows // _ROWS_FOR_ONE_REPLAYED, _FEWEST_REPLAYED), _MOST_REPLAYED)


def _longest_answer(config: Config) -> int | None:
    longest = min(config.max_new_tokens, _MOST_NEW_TOKENS)
    return longest if longest >= _FEWEST_NEW_TOKENS else None


def _answered(assistant: Assistant, longest: int, config: Config) -> list[tuple[int, ...]]:
    greedy, size = SamplingParams(longest), config.per_device_eval_batch_size
    answers: list[tuple[int, ...]] = []
    for start in range(0, len(QUESTIONS), size):
        conversations = [[Message("user", question)] for question in QUESTIONS[start : start + size]]
        answers += answer_ids(assistant, conversations, greedy)
    return answers


def _texts(assistant: Assistant, answers: Sequence[Sequence[int]]) -> tuple[str, ...]:
    return tuple(without_reasoning(answer_text(assistant, ids, has_tools=False)) for ids in answers)


class _Kept(BaseModel):
    """What a run's results say of its forgetting."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    replay: int = Field(ge=0)
    nats: float
    unchanged: int = Field(ge=0)
    questions: int = Field(ge=1)
    validation_loss: float


class _Results(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    data: str
    forgetting: _Kept


def _earlier(run_folder: Path, identity: RunIdentity | None, data: str) -> Iterator[OneForgetting]:
    """Yield earlier runs of the folder that differ in ``replay`` alone, the newest of each number."""
    if identity is None or leads_out(run_folder / PREVIOUS):
        return
    numbered = [path for path in (run_folder / PREVIOUS).glob("*") if re.fullmatch("[0-9]{1,9}", path.name)]
    seen = {_replay_of(identity)}
    for folder in sorted(numbered, key=lambda path: -int(path.name))[:_MOST_EARLIER_RUNS]:
        earlier = read_identity(folder)
        if earlier is None or not _differ_in_replay_alone(identity, earlier) or _replay_of(earlier) in seen:
            continue
        try:
            found = _Results.model_validate_json(read_whole(folder / RESULTS_FILE))
        except (OSError, ValidationError):
            continue
        if found.data == data and found.forgetting.replay == _replay_of(earlier):
            seen.add(_replay_of(earlier))
            yield OneForgetting(f"{PREVIOUS}/{folder.name}", **found.forgetting.model_dump())


def _replay_of(identity: RunIdentity | None) -> int:
    found = identity.settings.get("replay", 0) if identity else 0
    return found if isinstance(found, int) else 0


def _differ_in_replay_alone(one: RunIdentity, other: RunIdentity) -> bool:
    names = ("rows", "base_fingerprint", "template_hash", "dtype", "processes")
    without = [{name: value for name, value in run.settings.items() if name != "replay"} for run in (one, other)]
    return without[0] == without[1] and all(getattr(one, name) == getattr(other, name) for name in names)
