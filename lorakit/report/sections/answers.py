"""Base against tuned: scores, answers, what was learnt by heart, and what else has changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lorakit.language import translated
from lorakit.report.content import AnsweredRow, Forgetting, Interval, Memorised, Metric, OneForgetting
from lorakit.report.differences import marked_differences
from lorakit.report.markup import Markup, clipped, element, joined, note, section, table, words

_SHOWN_ROWS = 50
_MOST_CHARACTERS = 2000


def metrics(found: Sequence[Metric], rows: int) -> Markup:
    """Show every score with its interval."""
    if not found:
        return Markup()
    models = list(found[0].by_model)
    has_differences = any(metric.difference for metric in found)
    columns = ["", *models, *(["tuned less base"] if has_differences else [])]
    body = [
        [translated(metric.name), *(_value(metric.by_model[model]) for model in models)]
        + ([_value(metric.difference)] if has_differences else [])
        for metric in found
    ]
    explained = (
        f"In brackets: 95 % interval by bootstrap over the {rows:,} answered rows (1,000 resamples, percentiles). "
        "It tells how far the mean would move with other rows of the same kind; with few rows it is coarse. "
        "chrF with an interval is the mean over rows, chrF without one is taken over all text together."
    )
    return section("Scores", note(explained), table(columns, body, class_="numbers"))


def answers(rows: Sequence[AnsweredRow]) -> Markup:
    """Show answers side by side, with what differs from the expected one marked."""
    if not rows:
        return Markup()
    models = list(rows[0].answers)
    body = [_answered(row, models) for row in rows[:_SHOWN_ROWS]]
    legend = joined(
        [words("mark", "not expected"), " ", words("del", "missing"), " ", words("b", "✓ exact", class_="exact")]
    )
    more = f"The first {_SHOWN_ROWS} of {len(rows):,} rows; predictions.jsonl has all." if len(rows) > len(body) else ""
    explained = element(
        "p",
        " ".join(
            map(translated, ["An answer that has little in common with the expected one is marked as a whole.", more])
        ).rstrip(),
        class_="note",
    )
    return section(
        "Answers",
        explained,
        element("p", legend),
        table(["question", "expected", *models], body, class_="texts"),
    )


def memorisation(rows: Sequence[Memorised]) -> Markup:
    """Show how much of the tuned answers stands in the training answers."""
    if not rows:
        return Markup()
    shares = [row.share for row in rows if row.share is not None]
    expected = [row.expected_share for row in rows if row.expected_share is not None]
    copied = sum(row.is_copied for row in rows)
    summary = [
        f"{copied:,} of {len(rows):,} tuned answers are a training answer word for word, though another was expected."
    ]
    if shares:
        summary.append(f"Of the tuned answers' 8-grams, {_mean(shares):.0%} stand in a training answer (mean of rows).")
    if expected:
        summary.append(f"Of the expected answers' 8-grams, {_mean(expected):.0%} do.")
    explained = (
        "An 8-gram is a stretch of eight characters; an answer that is shorter counts as one. A tuned share far above "
        "the expected one means that the model repeats what it has learnt instead of answering."
    )
    body = [
        [
            row.origin,
            _text(row.answer),
            _share(row.share),
            _share(row.expected_share),
            translated("yes") if row.is_copied else "",
        ]
        for row in rows[:_SHOWN_ROWS]
    ]
    columns = ["row", "tuned answer", "tuned share", "expected share", "copied"]
    return section(
        "Learnt by heart",
        element("p", " ".join(map(translated, summary))),
        note(explained),
        table(columns, body, class_="texts shares"),
    )


def forgetting(found: Forgetting | None) -> Markup:
    """Show general questions, answered with and without the adapter, and what other trainings have cost."""
    if found is None:
        return Markup()
    rows = found.answers
    unchanged = sum(row.base == row.tuned for row in rows)
    explained = (
        "General questions that are no part of the data, answered greedily and briefly. Marked is what "
        "differs from the base's answer. A difference is not necessarily worse: read both. Answers that turn "
        "into training answers, change language or break off are signs that the adapter has cost other abilities."
    )
    body = [
        [
            row.question,
            _text(row.base),
            words("b", "unchanged", class_="exact") if row.base == row.tuned else _differing(row.base, row.tuned),
        ]
        for row in rows
    ]
    return section(
        "Other questions",
        words("p", f"{unchanged} of {len(rows)} answers are unchanged ({unchanged / len(rows):.0%})."),
        _runs(found.runs),
        note(explained),
        table(["question", "base", "tuned"], body, class_="texts"),
    )


def _runs(runs: Sequence[OneForgetting]) -> Markup:
    explained = (
        "Forgotten is by how much the base's own answers are less likely, in nats a token. Replayed are answers of the "
        "base that were trained with the rows (replay); earlier runs stand here where all else was the same."
    )
    body = [
        [
            run.where or translated("this run"),
            str(run.replay),
            number_text(run.nats),
            f"{run.unchanged} / {run.questions}",
            number_text(run.validation_loss),
        ]
        for run in runs
    ]
    columns = ["run", "replayed", "forgotten", "unchanged", "loss (nats per target token)"]
    return joined([note(explained), table(columns, body, class_="numbers")])


def _answered(row: AnsweredRow, models: Sequence[str]) -> list[str]:
    cells: list[str] = [_text(row.question), _text(row.expected)]
    for model in models:
        answer = row.answers[model]
        is_exact = answer == row.expected
        flag = joined([words("b", "✓ exact", class_="exact"), " "]) if is_exact else ""
        cells.append(joined([flag, _differing(row.expected, answer)]))
    return cells


def _differing(expected: str, answer: str) -> Markup:
    if not answer:
        return words("em", "no answer")
    return marked_differences(_text(expected), _text(answer))


def _text(text: str) -> str:
    return clipped(text, _MOST_CHARACTERS)


def _value(value: float | Interval | None) -> Markup:
    if value is None:
        return Markup()
    if isinstance(value, Interval):
        bounds = element("small", f"[{number_text(value.low)}, {number_text(value.high)}]")
        return joined([number_text(value.mean), " ", bounds])
    return joined([number_text(value)])


def number_text(value: float) -> str:
    """Write a score in few characters."""
    if math.isnan(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:.3g}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
