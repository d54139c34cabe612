"""A base model that stays loaded, and the adapters that are plugged into it and pulled out while it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import ChatFormat
from lorakit.engine import choose_backend, choose_device, release_memory
from lorakit.errors import AdapterError, LorakitError, SettingsError
from lorakit.inference.assistant import Assistant, assistant_for
from lorakit.inference.contract import hold_to
from lorakit.inference.weights.decode_choice import Decoders
from lorakit.model_config import (
    BASE,
    AdapterChoice,
    AdapterRecord,
    AdapterSet,
    FolderState,
    ModelBundle,
    adapter_tokenizer,
    check_adapter,
    check_rows,
    choose_adapters,
    choose_format,
    load_image_processor,
    load_model,
    load_tokenizer,
    locate_model,
    quantization_of,
    quiet_libraries,
    read_record,
    rows_in,
    unchanged_adapter,
)
from lorakit.model_config.image_processor import warn_of_other_pixels
from lorakit.runs import ADAPTER_FOLDER

if TYPE_CHECKING:
    import torch


class Adapters:
    """The adapters of a session, each held to the contract of its training.

    Args:
        bundle: The base model, without an adapter.
        chat_format: Of its tokenizer.
        config: Of the session.
    """

    def __init__(self, bundle: ModelBundle, chat_format: ChatFormat, config: Config) -> None:
        self._set = AdapterSet(bundle)
        self._chat_format = chat_format
        self._config = config
        self._records: dict[str, AdapterRecord | None] = {}
        self._found: dict[str, FolderState] = {}
        self._combined: dict[str, tuple[AdapterChoice, ...]] = {}
        self._decoders = Decoders(bundle, config)
        self._asked_as: AdapterRecord | None = None  # the base is asked as the adapter before it, to be comparable

    def close(self) -> None:
        """Let go of the model and everything on it."""
        del self._set, self._decoders
        release_memory()

    @property
    def assistant(self) -> Assistant:
        """Who answers now."""
        decoding = self._decoders.chosen(self._config.decode_weights, self.made_of)
        assistant = assistant_for(self._set.bundle, self._chat_format, self._config, self._asked_as, decoding)
        return replace(assistant, has_adapter=bool(self._set.active))

    @property
    def choices(self) -> tuple[AdapterChoice, ...]:
        """What is loaded."""
        return self._set.choices

    @property
    def active(self) -> dict[str, float]:
        """The names in use with their weights; empty for the base."""
        return self._set.active

    @property
    def made_of(self) -> tuple[AdapterChoice, ...]:
        """The adapters behind what is in use, those that were combined one by one, with the weights in use."""
        loaded = {choice.name: choice for choice in self.choices}
        return tuple(
            part
            for name, weight in self.active.items()
            for part in self._combined.get(name, (replace(loaded[name], weight=weight),))
        )

    def tensors_of(self, name: str) -> tuple[Any, dict[str, torch.Tensor]]:
        """Return configuration and tensors of an adapter; see `AdapterSet.tensors_of`."""
        return self._set.tensors_of(name)

    def slot_of(self, name: str) -> str:
        """Return PEFT's name of an adapter."""
        return self._set.slot_of(name)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Read files of base and adapters again inside this context, held to what they were when they were loaded.

        Raises:
            LorakitError: Something has written there since.
        """
        with ExitStack() as held:
            held.enter_context(self._set.bundle.source.unchanged())
            for found in self._found.values():
                held.enter_context(unchanged_adapter(found))
            yield

    def load(self, choice: AdapterChoice, found: FolderState | None = None) -> None:
        """Attach an adapter; what is in use stays so.

        Args:
            choice: Names it.
            found: Its folder when something of it was first read; None for now.

        Raises:
            LorakitError: It cannot be used with this base, or changes while it is read; nothing has changed.
        """
        found = found or FolderState.of(choice.folder)
        with unchanged_adapter(found):
            self._check_tokenizer(choice)
            self._set.load(choice)
        try:
            with unchanged_adapter(found):
                record = read_record(choice.folder)
                if record is not None:
                    hold_to(record, self._set.bundle, self._chat_format, self._config)
        except LorakitError:
            self._set.unload(choice.name)
            raise
        self._records[choice.name], self._found[choice.name] = record, found

    def _check_tokenizer(self, choice: AdapterChoice) -> None:
        """One tokenizer serves all adapters of a session: that of the first one that brings its own."""
        tokenizer = self._set.bundle.tokenizer
        if adapter_tokenizer(tokenizer, choice.folder) is not None:
            raise AdapterError(
                f"{choice.folder}: has another tokenizer or chat template than what is loaded",
                "use it in a session of its own",
            )

    def unload(self, name: str) -> None:
        """Take an adapter out of memory."""
        self._set.unload(name)
        self._records.pop(name, None)
        self._take_over(self.active)

    def use(self, name: str) -> None:
        """Answer with one adapter, at the weight that it was loaded with, or as `BASE`."""
        if name == BASE:
            self.base()
            return
        weights = {choice.name: choice.weight for choice in self.choices}
        self.mix({name: weights.get(name, 1.0)})

    def mix(self, weights: Mapping[str, float]) -> None:
        """Answer with the sum of several adapters' outputs, each multiplied by its weight; with none, as the base.

        Raises:
            SettingsError: One is not loaded, or they cannot be mixed.
        """
        self._set.use(weights)
        self._take_over(weights)

    def combine(self, weights: Mapping[str, float], combination: str, density: float) -> None:
        """Make one adapter of several, and answer with it; see `AdapterSet.combine`."""
        parts = tuple(replace(choice, weight=weights[choice.name]) for choice in self.choices if choice.name in weights)
        name = self._set.combine(weights, combination, density)
        self._combined[name] = parts
        self._take_over(weights)
        self._records[name] = self._asked_as

    def base(self) -> None:
        """Answer as the base model."""
        self._set.use({})

    @contextmanager
    def using(self, name: str) -> Iterator[Assistant]:
        """Answer with one adapter, or with `BASE`, inside this context."""
        before, asked_as = self.active, self._asked_as
        try:
            self.use(name)
            yield self.assistant
        finally:
            self._set.use(before)
            self._asked_as = asked_as

    def _take_over(self, weights: Mapping[str, float]) -> None:
        records = [self._records.get(name) for name in weights]
        prompts = {(record.system_prompt, record.thinking) for record in records if record is not None}
        if len(prompts) > 1:
            console.warn(
                "these adapters were trained with different system prompts or thinking; the first one's is taken"
            )
        if records:
            self._asked_as = next((record for record in records if record is not None), None)


def open_adapters(config: Config, may_be_half: bool = True) -> Adapters:
    """Load the model of a configuration with all its adapters, the first of them in use.

    Args:
        config: Names them.
        may_be_half: See `choose_format`.

    Raises:
        LorakitError: Model or adapters cannot be found, loaded, or trusted together.
    """
    quiet_libraries()
    choices = [] if config.use_original_model else chosen_adapters(config)
    source = locate_model(config.model_name_or_path, config.model_hub, config.trust_remote_code)
    base_tokenizer = load_tokenizer(source)
    found = [FolderState.of(choice.folder) for choice in choices]
    own = [adapter_tokenizer(base_tokenizer, choice.folder) for choice in choices]
    tokenizer = next((found for found in own if found is not None), base_tokenizer)
    for choice in choices:
        check_adapter(choice.folder)
        check_rows(tokenizer, choice.folder, source)
    chat_format = ChatFormat.of(tokenizer, load_image_processor(source), config)
    if chat_format.images is not None:
        warn_of_other_pixels(source.folder, (config.min_pixels, config.max_pixels))
    device = choose_device()
    dtype = choose_format(config, source, device, may_be_half=may_be_half)
    if dtype.warning:
        console.warn(dtype.warning)
    backend = choose_backend(config.cpu_kernels, device, dtype.dtype)
    quantization = quantization_of(config, device)
    brought = [len(tokenizer), *(rows_in(choice.folder) for choice in choices)] if choices else [0]
    bundle = load_model(source, tokenizer, dtype, device, quantization, max(brought), backend)
    bundle.model.eval()
    adapters = Adapters(bundle, chat_format, config)
    for choice, folder in zip(choices, found, strict=True):
        adapters.load(choice, folder)
    if choices:
        adapters.use(choices[0].name)
    shown = ", ".join(describe(choice) for choice in choices) or "none: the original model"
    console.facts("loaded", [("model", source.name), ("adapter", shown)])
    chosen = "torch_dtype auto: " if config.torch_dtype == "auto" else ""
    rows = [("dtype", f"{dtype.name} ({chosen}{dtype.reason})"), ("device", str(device))]
    console.details("in detail", [*rows, ("answers by", str(adapters.assistant.decoding))])
    return adapters


def open_assistant(config: Config) -> Assistant:
    """Load a model with its one adapter, or without, for a task that compares the two.

    Raises:
        SettingsError: There are several adapters.
        LorakitError: As `open_adapters`.
    """
    if len(config.lora_model_path or []) > 1:
        raise SettingsError(
            "lora_model_path: this task takes one adapter", "name one of them, or make one of them by --task merge"
        )
    return open_adapters(config).assistant


def chosen_adapters(config: Config) -> list[AdapterChoice]:
    """The adapters that a configuration names, or the one its training leaves."""
    return choose_adapters(config.lora_model_path or [str(Path(config.output_dir) / ADAPTER_FOLDER)])


def describe(choice: AdapterChoice) -> str:
    """Say what an adapter is called, where it lies, and its weight where it is not 1."""
    weight = "" if choice.weight == 1 else f", weight {choice.weight:g}"
    return f"{choice.name} ({choice.folder}{weight})"
