"""From a finished comparison to report.html and the model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lorakit.config import Config, as_yaml
from lorakit.data_processing import Dataset
from lorakit.data_processing.overview import counts, field_table, marked_tokens, warnings
from lorakit.evaluate.card import leave_card
from lorakit.evaluate.comparison import METRIC_NAMES, Comparison
from lorakit.evaluate.forgetting import forgetting, say_what_is_forgotten
from lorakit.evaluate.intervals import bootstrap_intervals
from lorakit.evaluate.memorisation import memorised
from lorakit.evaluate.metrics import row_scores, without_reasoning
from lorakit.inference import Assistant
from lorakit.report import AnsweredRow, DataOverview, Interval, Memorised, Metric, Report, ShownSequence, write_report
from lorakit.runs import PREDICTIONS_FILE, RESULTS_FILE, write_own_json

_SHOWN_SEQUENCES = 3


@dataclass(frozen=True)
class Evaluated:
    """What was evaluated, and on what.

    Attributes:
        task: ``train`` or ``evaluate``.
        assistant: Who answered.
        adapter: The folder of its adapter; None for a base alone.
        train: The training rows, where they are at hand.
        dataset: The rows that were answered.
        comparison: What came of it.
    """

    task: str
    assistant: Assistant
    adapter: Path | None
    train: Dataset | None
    dataset: Dataset
    comparison: Comparison


def leave_report(folder: Path, evaluated: Evaluated, config: Config) -> Path:
    """Write report.html beside the predictions that a comparison has left in ``folder``, and a training's model card.

    An adapter's training is looked for in the folder in which the adapter lies.
    """
    answered = _answered(folder)
    has_adapter, comparison = evaluated.assistant.has_adapter, evaluated.comparison
    found = None
    if has_adapter and evaluated.adapter is not None:
        run_folder, loss = evaluated.adapter.parent, comparison.scores["tuned"]["loss"]
        found = forgetting(evaluated.assistant, config, run_folder, evaluated.dataset.name, loss)
    if found is not None:
        own = {name: value for name, value in asdict(found.runs[0]).items() if name != "where"}
        write_own_json(folder, RESULTS_FILE, comparison.results | {"forgetting": own})
        say_what_is_forgotten(found, len(evaluated.train.examples) if evaluated.train else 0)
    report = Report(
        task=evaluated.task,
        model=config.model_name_or_path,
        adapter=evaluated.adapter,
        run_folder=evaluated.adapter.parent if evaluated.adapter else None,
        evaluated=evaluated.dataset.name,
        configuration=as_yaml(config),
        data=_overview(evaluated),
        verdict=comparison.verdict,
        metrics=tuple(_metrics(comparison, answered)),
        answered=answered,
        memorised=tuple(_memorised(evaluated, answered)) if has_adapter else (),
        forgetting=found,
    )
    file = write_report(folder, report)
    if evaluated.task == "train" and evaluated.adapter:
        leave_card(evaluated.adapter, report, evaluated.assistant, config)
    return file


def _answered(folder: Path) -> tuple[AnsweredRow, ...]:
    """Read the predictions."""
    with open(folder / PREDICTIONS_FILE, encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return tuple(
        AnsweredRow(
            origin=record["origin"],
            question="\n".join([record["text"], *record.get("images", ())]),
            expected=record["target"],
            answers={name: record[name] for name in ("base", "tuned") if name in record},
        )
        for record in records
    )


def _metrics(comparison: Comparison, answered: Sequence[AnsweredRow]) -> Iterator[Metric]:
    intervals = _intervals(answered, list(comparison.scores)) if answered else {}
    measured = {key for values in comparison.scores.values() for key in values}
    for key, label in METRIC_NAMES.items():
        if key not in measured:
            continue
        if found := intervals.get(key):
            difference = found.pop("difference", None)
            yield Metric(label, dict(found), difference)
        if key not in intervals or key == "chrf":
            whole: dict[str, float | Interval] = {name: values[key] for name, values in comparison.scores.items()}
            yield Metric(label if key not in intervals else f"{label}, of all text together", whole)


def _intervals(answered: Sequence[AnsweredRow], names: Sequence[str]) -> dict[str, dict[str, Interval]]:
    """Return intervals by metric, then by model, with that of the difference where there are two models."""
    columns: dict[tuple[str, str], list[float]] = {}
    for row in answered:
        by_model = {name: row_scores(row.answers[name], row.expected) for name in names}
        if len(names) == 2:
            base, tuned = by_model["base"], by_model["tuned"]
            by_model["difference"] = {key: tuned[key] - base[key] for key in tuned}
        for name, scores in by_model.items():
            for key, value in scores.items():
                columns.setdefault((key, name), []).append(value)
    found: dict[str, dict[str, Interval]] = {}
    labels = {f"{key} {name}": (key, name) for key, name in columns}
    for label, interval in bootstrap_intervals({label: columns[pair] for label, pair in labels.items()}).items():
        key, name = labels[label]
        found.setdefault(key, {})[name] = interval
    return found


def _memorised(evaluated: Evaluated, answered: Sequence[AnsweredRow]) -> list[Memorised]:
    """Hold the answers against the training answers, unless the training rows themselves were asked."""
    train = evaluated.train
    if train is None or train.name == evaluated.dataset.name:
        return []
    answers = (
        without_reasoning(message.content)
        for example in train.examples
        for message in example.messages
        if message.role == "assistant"
    )
    return memorised(answered, answers)


def _overview(evaluated: Evaluated) -> DataOverview:
    train, dataset = evaluated.train, evaluated.dataset
    datasets = [train] if train is not None else []
    if train is None or train.name != dataset.name:
        datasets.append(dataset)
    shown = train.encoded[:_SHOWN_SEQUENCES] if train is not None else ()
    chat_format = evaluated.assistant.chat_format
    return DataOverview(
        files=tuple(one.name for one in datasets),
        counts=tuple(tuple(line) for line in counts(datasets)),
        not_used=tuple(line for one in datasets for line in one.rejection_lines(most=len(one.rejected))),
        sequences=tuple(ShownSequence(row.origin, tuple(marked_tokens(row, chat_format))) for row in shown),
        fields=tuple((one.name, *line) for one in datasets for line in field_table(one)),
        warnings=tuple(line for one in datasets for line in _worth_a_look(one, train)),
    )


def _worth_a_look(dataset: Dataset, train: Dataset | None) -> list[str]:
    """Return the warnings but for the rows that are not used, which have a list of their own."""
    other = train if train is not None and train is not dataset else None
    return [line for line in warnings(dataset, other) if not line.startswith("not used: ")]
