"""What a report is made from, apart from the records that lie in the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorakit.console import MarkedText


@dataclass(frozen=True)
class ShownSequence:
    """One training sequence, token by token.

    Attributes:
        origin: Where its row stands.
        parts: Its tokens as text, each with whether it is trained.
    """

    origin: str
    parts: tuple[MarkedText, ...]


@dataclass(frozen=True)
class DataOverview:
    """The files of rows, counted.

    Attributes:
        files: Their names.
        counts: What was counted, with a value for each file.
        not_used: A line for each row that is not used, with the reason.
        sequences: A few training sequences.
        fields: What became of every column and key: file, place, rows, as what it is used.
        warnings: What the user should look at.
    """

    files: tuple[str, ...]
    counts: tuple[tuple[str, ...], ...]
    not_used: tuple[str, ...] = ()
    sequences: tuple[ShownSequence, ...] = ()
    fields: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnsweredRow:
    """One question, what was expected, and what each model answered.

    Attributes:
        origin: Where the row stands.
        question: The last turn of the user.
        expected: The answer of the row.
        answers: By model, ``base`` and, where there is an adapter, ``tuned``.
    """

    origin: str
    question: str
    expected: str
    answers: dict[str, str]


@dataclass(frozen=True)
class Interval:
    """A mean over rows, and the bounds between which it lies in 95 % of the resamples."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Metric:
    """One score.

    Attributes:
        name: With its bounds, such as ``exact match (0-1)``.
        by_model: A number, or a mean over rows with its interval.
        difference: Tuned less base on the same resamples; None where there is one model, or no value for each row.
    """

    name: str
    by_model: dict[str, float | Interval]
    difference: Interval | None = None


@dataclass(frozen=True)
class Memorised:
    """How much of one tuned answer stands in the training answers.

    Attributes:
        origin: Where the row stands.
        answer: What the tuned model said.
        share: Of the answer's character 8-grams, those found in any training answer; None where it has none.
        expected_share: The same of the expected answer: what a faithful answer would have.
        is_copied: Whether it is a training answer word for word, though another answer was expected.
    """

    origin: str
    answer: str
    share: float | None
    expected_share: float | None
    is_copied: bool


@dataclass(frozen=True)
class GeneralAnswers:
    """A question that has nothing to do with the training rows, and two answers to it."""

    question: str
    base: str
    tuned: str


@dataclass(frozen=True)
class OneForgetting:
    """What one training has cost of the base's answers to general questions.

    Attributes:
        where: The folder of its run, or None for the run that is shown.
        replay: How many answers of the base were trained with the rows.
        nats: By how much the base's own answers have become less likely, a token.
        unchanged: Answers that are word for word the base's.
        questions: How many were asked.
        validation_loss: Of the tuned model, in nats a target token.
    """

    where: str | None
    replay: int
    nats: float
    unchanged: int
    questions: int
    validation_loss: float


@dataclass(frozen=True)
class Forgetting:
    """General questions, asked of base and tuned model.

    Attributes:
        answers: To each of them.
        runs: This training, and earlier ones that differ from it in ``replay`` alone.
    """

    answers: tuple[GeneralAnswers, ...]
    runs: tuple[OneForgetting, ...]


@dataclass(frozen=True)
class Report:
    """The content of report.html. What is empty or None is left out.

    Attributes:
        task: ``train`` or ``evaluate``, which wrote it.
        model: The base, as its user named it.
        adapter: The folder of the adapter; None for a base alone.
        run_folder: Where the records of the training lie.
        evaluated: The file whose rows were answered.
        configuration: The settings as YAML.
        verdict: What was found, in one sentence.
        data: The files of rows.
        metrics: Base against tuned.
        answered: All rows that were answered, in the order of their file.
        memorised: The same rows held against the training answers.
        forgetting: General questions.
    """

    task: str
    model: str
    adapter: Path | None
    run_folder: Path | None
    evaluated: str
    configuration: str
    verdict: str = ""
    data: DataOverview | None = None
    metrics: tuple[Metric, ...] = ()
    answered: tuple[AnsweredRow, ...] = ()
    memorised: tuple[Memorised, ...] = ()
    forgetting: Forgetting | None = None
