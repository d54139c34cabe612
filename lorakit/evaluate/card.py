"""From a finished training to the model card beside its adapter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lorakit.config import Config
from lorakit.export.gguf.family import FAMILIES
from lorakit.inference import Assistant
from lorakit.language import translated
from lorakit.model_config import AdapterRecord, ModelSource, read_record
from lorakit.model_config.starter import STARTER
from lorakit.model_config.weights.widened import quantizer_of
from lorakit.outgoing import strict_json
from lorakit.report import Card, Loading, Report, write_card

_UNFIT = re.compile(r"[^a-z0-9.-]+")
Origin = Literal["huggingface", "modelscope", "folder", "starter"]


def leave_card(folder: Path, report: Report, assistant: Assistant, config: Config) -> None:
    """Write README.md into an adapter's folder.

    Args:
        folder: Of the adapter.
        report: Of its training.
        assistant: With the adapter.
        config: The settings of its training.
    """
    record = read_record(folder)
    if record is None:
        return
    source = assistant.bundle.source
    origin = _origin(source, config)
    card = Card(
        base=_base_name(source),
        got_from=origin,
        record=record,
        report=report,
        settings=tuple(_settings(config, assistant)),
        loading=_loading(source, origin, record, assistant, config),
        is_tested_on_training_rows=not config.has_validation,
    )
    write_card(folder, card)


def _origin(source: ModelSource, config: Config) -> Origin:
    if source.name == STARTER:
        return "starter"
    return config.model_hub if source.hub_name else "folder"


def _base_name(source: ModelSource) -> str:
    """Name the base without the path that leads to it on this machine."""
    return source.hub_name or (STARTER if source.name == STARTER else source.folder.resolve().name)


def _settings(config: Config, assistant: Assistant) -> Iterator[tuple[str, str]]:
    targets = config.target_modules
    parts = {"the vision tower": config.train_vision, "the projector": config.train_projector}
    listed = [targets] if isinstance(targets, str) else [*targets]
    yield "rank (r)", str(config.lora_r)
    yield "alpha", f"{config.lora_alpha:g}"
    yield "dropout", f"{config.lora_dropout:g}"
    yield (
        "adapted layers",
        ", ".join([*listed, *(translated(part) for part, is_adapted in parts.items() if is_adapted)]),
    )
    yield "learning rate", f"{config.learning_rate}"
    yield "epochs", f"{config.num_train_epochs:g}"
    yield "rows in a step, per device", str(config.per_device_train_batch_size * config.gradient_accumulation_steps)
    yield "longest row in tokens", str(config.max_length)
    yield "seed", str(config.seed)
    yield "number format", f"{assistant.bundle.dtype.name}, the adapter float32"
    if config.replay:
        yield "answers of the base trained with the rows", str(config.replay)
    yield "adapter kept", "the one of the lowest validation loss" if config.keeps_best else "the last one"


def _loading(
    source: ModelSource, origin: Origin, record: AdapterRecord, assistant: Assistant, config: Config
) -> Loading:
    name = _base_name(source)
    is_on_hub = source.hub_name is not None
    placeholder = f"path/to/{name}"
    return Loading(
        name=f"{_UNFIT.sub('-', name.rpartition('/')[2].lower()).strip('-.') or 'base'}-lora",
        base=name if is_on_hub else placeholder,
        base_code=_base_code(name, origin, placeholder),
        rank=config.lora_r,
        stop_ids=tuple(assistant.stop_ids),
        system_prompt=record.system_prompt,
        thinks=record.thinking if "enable_thinking" in str(assistant.chat_format.tokenizer.chat_template) else None,
        pixels=record.pixels,
        has_own_template=not assistant.chat_format.is_plain,
        is_beyond_language=config.train_vision or config.train_projector,
        lorakit_base=placeholder if origin == "folder" else name,
        is_from_modelscope=origin == "modelscope",
        has_gguf=assistant.bundle.family in FAMILIES,
        quantizer=quantizer_of(source),
    )


def _base_code(name: str, origin: Origin, placeholder: str) -> str:
    named, place = (strict_json(text) for text in (name, placeholder))
    return {
        "huggingface": f"base = {named}",
        "modelscope": f"from modelscope import snapshot_download\n\nbase = snapshot_download({named})",
        "folder": f"base = {place}",
        "starter": "from lorakit.model_config.starter import starter_folder\n\nbase = str(starter_folder())",
    }[origin]
