"""Rows for people to look at: tokens with their mask, and counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorakit.config import Config
from lorakit.console import MarkedText
from lorakit.data_processing.dataset import Dataset
from lorakit.data_processing.example import EncodedExample
from lorakit.data_processing.ledger import field_lines
from lorakit.data_processing.templates.chat_format import ChatFormat
from lorakit.engine import IGNORED_LABEL


def marked_tokens(sequence: EncodedExample, chat_format: ChatFormat) -> list[MarkedText]:
    """Decode token by token; tokens that are parts of one character are shown together with it."""
    marked: list[MarkedText] = []
    waiting: list[int] = []
    pictures = dict(zip(sequence.picture_starts, sequence.pictures, strict=True))
    covered = {index for start, picture in pictures.items() for index in range(start, start + picture.tokens)}
    for index, (token, label) in enumerate(zip(sequence.input_ids, sequence.labels, strict=True)):
        if index in covered:
            if (picture := pictures.get(index)) is not None:
                marked.append(MarkedText(f"[{Path(picture.path).name}: {picture.tokens} tokens]", False))
            continue
        waiting.append(token)
        text = str(chat_format.tokenizer.decode(waiting, clean_up_tokenization_spaces=False))
        if "\ufffd" in text and len(waiting) < 4:
            continue
        marked.append(MarkedText(text.replace("\n", "⏎\n"), label != IGNORED_LABEL))
        waiting = []
    if waiting:
        text = str(chat_format.tokenizer.decode(waiting, clean_up_tokenization_spaces=False))
        marked.append(MarkedText(text, sequence.labels[-1] != IGNORED_LABEL))
    return marked


def counts(datasets: Sequence[Dataset]) -> list[list[str]]:
    """Count what there is in one file of rows, or in a training and a validation file.

    Returns:
        Lines of a table: what was counted, then a value for each file.
    """
    rows: dict[str, list[int] | list[str]] = {
        "rows": [len(dataset.examples) for dataset in datasets],
        "sequences": [len(dataset.encoded) for dataset in datasets],
        "tokens": [dataset.tokens for dataset in datasets],
        "tokens of pictures": [dataset.picture_tokens for dataset in datasets],
        "trained tokens": [f"{dataset.targets} ({dataset.targets / dataset.tokens:.0%})" for dataset in datasets],
        "longest, in tokens": [dataset.longest for dataset in datasets],
        "cut": [len(dataset.cut) for dataset in datasets],
        "dropped": [len(dataset.rejected) for dataset in datasets],
        "duplicates": [len(dataset.duplicates) for dataset in datasets],
        "answered otherwise before": [len(dataset.contradictions) for dataset in datasets],
    }
    if len(datasets) == 2:
        train, validation = datasets
        rows["also in the other file"] = [len(train.overlap(validation)), len(validation.overlap(train))]
    return [[name, *(str(value) for value in values)] for name, values in rows.items()]


def field_table(dataset: Dataset) -> list[list[str]]:
    """Say what became of every column and key of a file: where it stands, in how many rows, as what it is used."""
    return [[fate.place, str(fate.rows), fate.fate] for fate in dataset.fields]


def warnings(dataset: Dataset, train: Dataset | None = None) -> list[str]:
    """Name what is not used of a file, and what makes its rows worth less.

    Args:
        dataset: The file.
        train: The training rows where the file is another one; rows that stand in both prove nothing.
    """
    lines = [f"{dataset.name}: {line}" for line in field_lines(dataset.fields)]
    lines += [f"not used: {line}" for line in dataset.rejection_lines()]
    if found := dataset.contradictions:
        lines.append(f"the same question has different answers: {_first(found)}")
    if train is not None and (shared := dataset.overlap(train)):
        lines.append(f"stands in {train.name} too, so its score proves nothing: {_first(shared)}")
    return lines


def names_without_rows(config: Config, datasets: Sequence[Dataset]) -> list[str]:
    """Name the fields that the settings speak of and no row has: a name may be misspelt."""
    places = {fate.place for dataset in datasets for fate in dataset.fields}
    known = places | {place.rpartition(".")[2] for place in places}
    spoken_of = {"map_fields": config.map_fields, "ignore_fields": config.ignore_fields}
    return [
        f'{setting}: no row that is used has a field "{name}"'
        for setting, names in spoken_of.items()
        for name in names
        if name not in known
    ]


def _first(origins: Sequence[str]) -> str:
    return origins[0] + (f" and {len(origins) - 1} more" if len(origins) > 1 else "")
