"""A base model, with or without an adapter, that answers questions exactly as it was trained to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import ChatFormat, ImageFormat, Message
from lorakit.engine import choose_device, choose_dtype
from lorakit.inference.contract import hold_to
from lorakit.model_config import (
    AdapterRecord,
    ModelBundle,
    attach_adapter,
    load_image_processor,
    load_model,
    load_tokenizer,
    locate_model,
    quantization_of,
    quiet_libraries,
    read_record,
)
from lorakit.runs import ADAPTER_FOLDER

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Assistant:
    """What answers.

    Attributes:
        bundle: The model, its adapter attached where there is one.
        chat_format: How its conversations are written.
        has_adapter: Whether `without_adapter` makes a difference.
        system_prompt: Given to conversations that carry none.
        thinking: Whether a reasoning model thinks first.
    """

    bundle: ModelBundle
    chat_format: ChatFormat
    has_adapter: bool
    system_prompt: str | None
    thinking: bool

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Encode a conversation that ends with a question, as training encoded it."""
        if self.system_prompt and messages[0].role != "system":
            messages = [Message("system", self.system_prompt), *messages]
        return self.chat_format.prompt_ids(messages, self.thinking)

    def without_adapter(self) -> AbstractContextManager[None]:
        """Answer as the base model inside this context."""
        return self.bundle.model.disable_adapter() if self.has_adapter else nullcontext()  # type: ignore[no-any-return]

    @property
    def stop_ids(self) -> list[int]:
        """The tokens at which an answer ends."""
        return stop_ids(self.bundle.model, self.chat_format)


def stop_ids(model: Any, chat_format: ChatFormat) -> list[int]:
    """Return the tokens at which an answer ends: the trained end of turn, and the model's own."""
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own] if own is not None else []
    return list(dict.fromkeys([chat_format.end_of_turn_id, *listed]))


def open_assistant(config: Config) -> Assistant:
    """Load the model of a configuration and, unless ``use_original_model`` is set, its adapter.

    Raises:
        LorakitError: Model or adapter cannot be found, loaded, or trusted together.
    """
    quiet_libraries()
    adapter = None if config.use_original_model else adapter_folder(config)
    source = locate_model(config.model_name_or_path, config.model_hub, config.trust_remote_code)
    tokenizer = load_tokenizer(source)
    images = ImageFormat.of(load_image_processor(source), config)
    device = choose_device()
    dtype = choose_dtype(config.torch_dtype, device)
    if dtype.warning:
        console.warn(dtype.warning)
    bundle = load_model(source, tokenizer, dtype, device, quantization_of(config, device))
    record = None
    if adapter is not None:
        record = read_record(adapter)
        attached = attach_adapter(bundle, adapter)
        bundle = ModelBundle(source, tokenizer, attached, bundle.family, dtype, device)
    bundle.model.eval()
    rows = [("model", source.name), ("adapter", str(adapter) if adapter else "none: the original model")]
    console.facts("loaded", [*rows, ("dtype", f"{dtype.name} ({dtype.reason})"), ("device", str(device))])
    return assistant_for(bundle, ChatFormat(tokenizer, images), config, record)


def adapter_folder(config: Config) -> Path:
    """The adapter that a configuration names, or the one its training leaves."""
    return Path(config.lora_model_path or Path(config.output_dir) / ADAPTER_FOLDER)


def assistant_for(
    bundle: ModelBundle, chat_format: ChatFormat, config: Config, record: AdapterRecord | None
) -> Assistant:
    """Make an assistant that holds itself to what its adapter was trained with."""
    from peft import PeftModel

    system_prompt, thinking = config.system_prompt, config.thinking is True
    if record is not None:
        hold_to(record, bundle, chat_format, config)
        if system_prompt is None:
            system_prompt = record.system_prompt
        if config.thinking == "auto":
            thinking = record.thinking
    return Assistant(bundle, chat_format, isinstance(bundle.model, PeftModel), system_prompt, thinking)


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay prompts out for batched generation, their ends aligned.

    Returns:
        Token ids and attention mask, both [prompts, longest prompt].
    """
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)
