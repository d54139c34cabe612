"""Holding a loaded model to what its adapter was trained with: kept, warned of, or refused."""

from __future__ import annotations

from collections.abc import Iterator

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import ChatFormat
from lorakit.errors import AdapterError
from lorakit.model_config import AdapterRecord, ModelBundle, quantization_of

_SHOWN_CHARACTERS = 40


def hold_to(record: AdapterRecord, bundle: ModelBundle, chat_format: ChatFormat, config: Config) -> None:
    """Compare what is loaded with what was trained.

    Raises:
        AdapterError: Answers would end at another token than in training, or the prompt would be another text.
    """
    now = chat_format.end_of_turn
    if record.end_of_turn != now:
        raise AdapterError(
            f"the adapter was trained to end its answers with {record.end_of_turn!r}, this tokenizer ends them "
            f"with {now!r}",
            f"use the tokenizer and chat template of {record.base_model} as they were in training",
        )
    if record.template_date is not None:
        chat_format = chat_format.dated(record.template_date)
    if record.template_hash != chat_format.template_hash:
        _check_rendering(record, chat_format)
    for difference in _lesser_differences(record, bundle, config):
        console.warn(difference)


def _check_rendering(record: AdapterRecord, chat_format: ChatFormat) -> None:
    if record.rendering is None:
        console.warn("the chat template differs from the one the adapter was trained with; answers may suffer")
        return
    trained = (record.rendering, *record.examples)
    loaded = (chat_format.rendering(), *chat_format.examples()[: len(record.examples)])
    for before, now in zip(trained, loaded, strict=True):
        if before != now:
            then, here = _first_difference(before, now)
            raise AdapterError(
                f"the chat template writes {here!r} where the one in training wrote {then!r}",
                f"use the chat template of {record.base_model} as it was in training (it lies beside the adapter)",
            )
    console.warn(
        f"the chat template or its special tokens are not those in training, though all {len(trained)} conversations "
        "that were tried come out the same; the template in training lies beside the adapter"
    )


def _first_difference(first: str, second: str) -> tuple[str, str]:
    same = next((i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    start = max((min(len(first), len(second)) if same is None else same) - 8, 0)
    return first[start : start + _SHOWN_CHARACTERS], second[start : start + _SHOWN_CHARACTERS]


def _lesser_differences(record: AdapterRecord, bundle: ModelBundle, config: Config) -> Iterator[str]:
    if record.config_fingerprint not in {None, bundle.source.config_fingerprint()}:
        yield f"the config.json of {bundle.source.name} is not the one the adapter was trained with"
    if config.system_prompt not in {None, record.system_prompt}:
        yield f"system_prompt differs from the one in training ({record.system_prompt!r})"
    if config.thinking not in ("auto", record.thinking):
        yield f"thinking is {config.thinking}, in training it was {record.thinking}"
    if record.quantization != quantization_of(config):
        now, then = (found or "full precision" for found in (quantization_of(config), record.quantization))
        yield f"the base weights are in {now}, in training they were in {then}"
    if record.pixels is not None and record.pixels != (config.min_pixels, config.max_pixels):
        yield (
            f"pictures of {config.min_pixels} to {config.max_pixels} pixels, in training of {record.pixels[0]} to "
            f"{record.pixels[1]}: set min_pixels and max_pixels"
        )
