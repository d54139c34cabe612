"""Rows for people to look at: tokens with their mask, and counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorakit.console import MarkedText
from lorakit.data_processing.chat_format import ChatFormat
from lorakit.data_processing.dataset import Dataset
from lorakit.data_processing.example import EncodedExample
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
    }
    if len(datasets) == 2:
        train, validation = datasets
        rows["also in the other file"] = [len(train.overlap(validation)), len(validation.overlap(train))]
    return [[name, *(str(value) for value in values)] for name, values in rows.items()]
