"""``--task preview``: the rows as the model will see them, before any weight is loaded."""

from __future__ import annotations

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import ChatFormat, load_datasets
from lorakit.data_processing.ledger import field_lines
from lorakit.data_processing.overview import counts, field_table, marked_tokens, names_without_rows
from lorakit.invocation import this_command
from lorakit.language import translated
from lorakit.model_config import add_tokens, load_image_processor, load_tokenizer, locate_model, read_model_type

_SHOWN_ROWS = 3
_NAMED_ROWS = 10


def run(config: Config) -> int:
    """Show the first rows token by token, and count what there is in the training and validation files."""
    source = locate_model(config.model_name_or_path, config.model_hub, config.trust_remote_code)
    tokenizer = load_tokenizer(source)
    add_tokens(tokenizer, config.add_tokens)
    chat_format = ChatFormat.of(tokenizer, load_image_processor(source), config)
    _, position_limit = read_model_type(source)
    train, validation = load_datasets(config, chat_format, position_limit)
    template = "the plain format (no chat template)" if chat_format.is_plain else "its own chat template"
    console.result(f"{source.name}, {template}; trained tokens are marked, each answer ends with its end-of-turn token")
    for sequence in train.encoded[:_SHOWN_ROWS]:
        console.result()
        console.result(f"{sequence.origin}: {len(sequence.input_ids)} tokens, {sequence.targets} trained")
        console.marked(marked_tokens(sequence, chat_format))
    console.result()
    datasets = [train] + ([validation] if validation else [])
    console.table("counts", ["", *(dataset.name for dataset in datasets)], counts(datasets))
    _name_rows("settings of fields without effect", names_without_rows(config, datasets))
    for dataset in datasets:
        if dataset.fields:  # rows that are held back are counted with those that they stood among
            console.table(
                f"fields of {dataset.name}",
                ["field", "rows", "used as"],
                [[*place, translated(use)] for *place, use in field_table(dataset)],
            )
        _name_rows("not used, and perhaps meant", field_lines(dataset.fields))
        _name_rows("not used", dataset.rejection_lines(most=len(dataset.rejected)))
        _name_rows("cut at the beginning of the prompt", dataset.cut)
        _name_rows("duplicate of an earlier row", dataset.duplicates)
        _name_rows("the same question has different answers", dataset.contradictions)
    if validation is not None:
        _name_rows("stands in the training file too, so its score proves nothing", validation.overlap(train))
    console.suggest("what a training would take", this_command("plan"))
    console.suggest("train", this_command("train"))
    return 0


def _name_rows(what: str, origins: tuple[str, ...] | list[str]) -> None:
    if not origins:
        return
    console.result(f"{what}:")
    for origin in origins[:_NAMED_ROWS]:
        console.result(f"  {origin}")
    if len(origins) > _NAMED_ROWS:
        console.result(f"  ... and {len(origins) - _NAMED_ROWS} more")
