"""What the records of a training run show: curves, and memory against its plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorakit.language import translated
from lorakit.report.charts import Series, line_chart
from lorakit.report.markup import Markup, element, joined, note, section, table, words
from lorakit.runs import EvaluationRecord, MemoryRecord, PlanRecord, StepRecord
from lorakit.runs.records import Record

_BAR_WIDTH, _BAR_HEIGHT = 600, 18


def curves(records: Sequence[Record]) -> Markup:
    """Draw loss, learning rate, gradient norm and speed over the optimizer steps."""
    steps = [record for record in records if isinstance(record, StepRecord)]
    if not steps:
        return Markup()
    validations = [record for record in records if isinstance(record, EvaluationRecord)]
    loss = [
        Series("training", tuple((record.step, record.loss) for record in steps)),
        Series("validation", tuple((record.step, record.loss) for record in validations), has_dots=True),
    ]
    speeds = tuple((record.step, record.tokens / record.step_seconds) for record in steps if record.step_seconds > 0)
    charts = [
        line_chart("Loss", "nats per trained token", loss),
        _chart("Learning rate", "", [(record.step, record.learning_rate) for record in steps]),
        _chart("Gradient norm", "before clipping", [(record.step, record.grad_norm) for record in steps]),
        _chart("Speed", "tokens per second", list(speeds)),
    ]
    return section("Training", _summary(steps, validations), element("div", *charts, class_="charts"))


def memory(records: Sequence[Record]) -> Markup:
    """Hold the memory that was planned, by part, against the peak that was measured."""
    plan = next((record for record in records if isinstance(record, PlanRecord)), None)
    if plan is None:
        return Markup()
    measured = max((record.peak_bytes for record in records if isinstance(record, MemoryRecord)), default=0)
    parts = [(translated(name), size) for name, size in plan.planned_parts.items() if size > 0]
    widest = max(plan.planned_bytes, measured, 1)
    bars = [words("p", "planned", class_="bar-name"), _bar(parts, widest)]
    if measured:
        bars += [words("p", "measured at the peak", class_="bar-name"), _bar([("", measured)], widest, "whole")]
    rows = [(_swatch(number, name), _gigabytes(size)) for number, (name, size) in enumerate(parts)]
    rows.append((words("strong", "planned, together"), _gigabytes(plan.planned_bytes)))
    if measured:
        rows.append((words("strong", "measured at the peak"), _gigabytes(measured)))
    return section("Memory", note(_decisions(plan)), *bars, table(["part", "GB"], rows, class_="numbers"))


def _chart(title: str, unit: str, points: list[tuple[int, float]]) -> Markup:
    return line_chart(title, unit, [Series(title, tuple(points))])


def _summary(steps: Sequence[StepRecord], validations: Sequence[EvaluationRecord]) -> Markup:
    seconds = sum(record.step_seconds for record in steps)
    tokens = sum(record.tokens for record in steps)
    facts = [
        f"{len(steps):,} optimizer steps, {steps[-1].epoch:g} passes over the data, {tokens:,} tokens "
        f"in {seconds:,.1f} s.",
        f"Training loss {steps[0].loss:.4f} at the first step, {steps[-1].loss:.4f} at the last.",
    ]
    if validations:
        best = min(validations, key=lambda record: record.loss)
        facts.append(f"Lowest validation loss {best.loss:.4f} after step {best.step}.")
    return element("p", " ".join(map(translated, facts)))


def _bar(parts: Sequence[tuple[str, int]], widest: int, class_: str = "") -> Markup:
    return element(
        "svg",
        *_bar_pieces(parts, widest, class_),
        viewBox=f"0 0 {_BAR_WIDTH} {_BAR_HEIGHT}",
        preserveAspectRatio="none",
        class_="bar",
        role="img",
        aria_label=", ".join(f"{name} {_gigabytes(size)} GB".strip() for name, size in parts),
    )


def _bar_pieces(parts: Sequence[tuple[str, int]], widest: int, class_: str) -> Iterator[Markup]:
    start = 0.0
    for number, (name, size) in enumerate(parts):
        width = size / widest * _BAR_WIDTH
        title = element("title", f"{name} {_gigabytes(size)} GB".strip())
        place = {"x": f"{start:.2f}", "y": "0", "width": f"{width:.2f}", "height": str(_BAR_HEIGHT)}
        yield element("rect", title, class_=class_ or f"p{number}", **place)
        start += width


def _swatch(number: int, name: str) -> Markup:
    return joined([element("span", class_=f"swatch b{number}"), name])


def _decisions(plan: PlanRecord) -> str:
    checkpointed = "computed anew in the backward pass" if plan.is_checkpointed else "kept for the backward pass"
    compiled = "compiled" if plan.is_compiled else "not compiled"
    return f"Up to {plan.max_tokens:,} tokens in one pass; activations are {checkpointed}; layers are {compiled}."


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3f}"
