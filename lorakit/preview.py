"""``--task preview``: the rows as the model will see them, before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import ChatFormat, Dataset, EncodedExample, ImageFormat, load_datasets
from lorakit.engine import IGNORED_LABEL
from lorakit.model_config import load_image_processor, load_tokenizer, locate_model, read_model_type

_SHOWN_ROWS = 3
_NAMED_ROWS = 10


def run(config: Config) -> int:
    """Show the first rows token by token, and count what there is in the training and validation files."""
    source = locate_model(config.model_name_or_path, config.model_hub, config.trust_remote_code)
    images = ImageFormat.of(load_image_processor(source), config)
    chat_format = ChatFormat(load_tokenizer(source), images)
    _, position_limit = read_model_type(source)
    train, validation = load_datasets(config, chat_format, position_limit)
    template = "the plain format (no chat template)" if chat_format.is_plain else "its own chat template"
    console.result(f"{source.name}, {template}; trained tokens are marked, each answer ends with its end-of-turn token")
    for sequence in train.encoded[:_SHOWN_ROWS]:
        console.result()
        console.result(f"{sequence.origin}: {len(sequence.input_ids)} tokens, {sequence.targets} trained")
        console.marked(_marked_tokens(sequence, chat_format))
    console.result()
    datasets = [train] + ([validation] if validation else [])
    console.table("counts", ["", *(dataset.name for dataset in datasets)], _counts(datasets))
    for dataset in datasets:
        _name_rows("not used", dataset.rejection_lines(most=len(dataset.rejected)))
        _name_rows("cut at the beginning of the prompt", dataset.cut)
        _name_rows("duplicate of an earlier row", dataset.duplicates)
    if validation is not None:
        _name_rows("stands in the training file too, so its score proves nothing", validation.overlap(train))
    return 0


def _marked_tokens(sequence: EncodedExample, chat_format: ChatFormat) -> list[console.MarkedText]:
    """Decode token by token; tokens that are parts of one character are shown together with it."""
    marked: list[console.MarkedText] = []
    waiting: list[int] = []
    pictures = dict(zip(sequence.picture_starts, sequence.pictures, strict=True))
    covered = {index for start, picture in pictures.items() for index in range(start, start + picture.tokens)}
    for index, (token, label) in enumerate(zip(sequence.input_ids, sequence.labels, strict=True)):
        if index in covered:
            if (picture := pictures.get(index)) is not None:
                marked.append(console.MarkedText(f"[{Path(picture.path).name}: {picture.tokens} tokens]", False))
            continue
        waiting.append(token)
        text = str(chat_format.tokenizer.decode(waiting, clean_up_tokenization_spaces=False))
        if "\ufffd" in text and len(waiting) < 4:
            continue
        marked.append(console.MarkedText(text.replace("\n", "⏎\n"), label != IGNORED_LABEL))
        waiting = []
    if waiting:
        text = str(chat_format.tokenizer.decode(waiting, clean_up_tokenization_spaces=False))
        marked.append(console.MarkedText(text, sequence.labels[-1] != IGNORED_LABEL))
    return marked


def _counts(datasets: list[Dataset]) -> list[list[str]]:
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


def _name_rows(what: str, origins: tuple[str, ...] | list[str]) -> None:
    if not origins:
        return
    console.result(f"{what}:")
    for origin in origins[:_NAMED_ROWS]:
        console.result(f"  {origin}")
    if len(origins) > _NAMED_ROWS:
        console.result(f"  ... and {len(origins) - _NAMED_ROWS} more")
