"""What a run needs before its first step: rows, tokenizer, model and a new adapter."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import ChatFormat, Dataset, Example, Sequences, load_datasets
from lorakit.data_processing.overview import names_without_rows, warnings
from lorakit.data_processing.tokens.sequences import followed_by
from lorakit.engine import (
    Backend,
    DtypeChoice,
    Ranks,
    choose_backend,
    choose_device,
    free_bytes,
)
from lorakit.errors import RunError, SettingsError
from lorakit.inference import stop_ids
from lorakit.model_config import (
    AdapterRecord,
    ModelBundle,
    ModelSource,
    add_tokens,
    attach_new_adapter,
    choose_format,
    fewer_bits,
    load_image_processor,
    load_model,
    load_tokenizer,
    locate_model,
    quantization_of,
    read_model_type,
    weight_bytes,
)
from lorakit.model_config.trust import read_settings
from lorakit.train.checkpoints.resuming import EarlierRun
from lorakit.train.setup.arguments import training_arguments
from lorakit.train.setup.learning_rate import steps_of, with_rate
from lorakit.train.setup.remedies import Remedy, any_of, applied, fitting
from lorakit.train.setup.replay import Replayed, general_questions

ROWS_ANSWERED_AT_END = 20


@dataclass(frozen=True)
class Data:
    """The rows of a run, and the answers of the base that are trained with them."""

    train: Dataset
    validation: Dataset | None
    replayed: Replayed = field(default_factory=Replayed)

    @cached_property
    def trained(self) -> Sequences:
        """All sequences that are trained."""
        return followed_by(self.train.encoded, self.replayed.rows) if self.replayed else self.train.encoded


@dataclass(frozen=True)
class Gathered:
    """Everything but the weights, which only some settings of memory change."""

    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    chat_format: ChatFormat
    data: Data
    device: torch.device
    dtype: DtypeChoice
    backend: Backend
    general_questions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs before its first step.

    ``config`` is as `lorakit.train.planning.fitting` has changed it.
    """

    config: Config
    bundle: ModelBundle
    chat_format: ChatFormat
    data: Data
    arguments: TrainingArguments
    record: AdapterRecord
    backend: Backend

    def check_base(self) -> None:
        """Hold the base's files to what they were, as `ModelSource.check_in_use` does."""
        self.bundle.source.check_in_use(self.record.base_fingerprint)

    @property
    def held_out(self) -> Dataset:
        """The rows that are evaluated at the end; without validation rows, those of the training that are answered."""
        return self.data.validation or self.data.train.first(self._most_answered)

    @property
    def answered(self) -> tuple[Example, ...]:
        """Those of them that are answered in training."""
        return self.held_out.examples[: self._most_answered]

    @property
    def _most_answered(self) -> int:
        return self.config.max_generated_rows or ROWS_ANSWERED_AT_END


def gather(config: Config, earlier: EarlierRun | None) -> Gathered:
    """Load tokenizer and rows, and choose device and number format.

    Args:
        config: Of the run.
        earlier: The run that is resumed, whose number format and kernels it keeps; None to choose.

    Raises:
        LorakitError: Something in the settings or the rows is wrong.
    """
    device = choose_device()
    quantization = quantization_of(config, device)
    if quantization and config.trainer_args.get("fsdp"):
        raise SettingsError(f"load_in_{quantization} does not go together with FSDP", "leave one of them out")
    source = locate_model(config.model_name_or_path, config.model_hub, config.trust_remote_code)
    tokenizer = load_tokenizer(source)
    add_tokens(tokenizer, config.add_tokens)
    chat_format = ChatFormat.of(tokenizer, load_image_processor(source), config, _first_day(earlier))
    if chat_format.date is None and config.template_date == "today":
        chat_format = chat_format.dated(_first_day(None))
    _, position_limit = read_model_type(source)
    asked = general_questions(config)
    data = _load_data(config, chat_format, position_limit)
    _check_sharding(config, data)
    dtype = choose_format(config, source, device, earlier.dtype if earlier else None)
    if dtype.warning:
        console.warn(dtype.warning)
    if earlier is None:
        backend = choose_backend(config.cpu_kernels, device, dtype.dtype)
    else:
        backend = choose_backend(earlier.identity.kernels, device, dtype.dtype, "as in the run that is resumed")
    return Gathered(source, tokenizer, chat_format, data, device, dtype, backend, asked)


def _first_day(earlier: EarlierRun | None) -> str:
    """Return the day on which a run first started, the same in all of its processes."""
    today = datetime.date.today().isoformat()
    recorded = earlier.identity.template_date if earlier else None
    return next(iter(Ranks.of_environment().collect([recorded or today])))


def prepare(config: Config, gathered: Gathered) -> Prepared:
    """Load the model, and attach a new adapter.

    Raises:
        LorakitError: Something in the settings or the model is wrong, or its weights do not fit into memory.
    """
    source, tokenizer, device, dtype = gathered.source, gathered.tokenizer, gathered.device, gathered.dtype
    rows = len(gathered.data.train.encoded) + len(gathered.general_questions)
    steps = steps_of(config, rows, Ranks.of_environment().count)
    config = with_rate(config, read_settings(source), steps)
    arguments = training_arguments(config, dtype, device)  # before the weights: a wrong argument should not wait
    config = _with_weights_that_fit(config, gathered)
    quantization = quantization_of(config, device)
    token_rows = len(tokenizer) if config.add_tokens else 0
    bundle = load_model(source, tokenizer, dtype, device, quantization, token_rows, gathered.backend)
    set_seed(config.seed)
    adapted = attach_new_adapter(bundle, config)
    chat_format = gathered.chat_format
    record = AdapterRecord(
        base_model=source.name,
        base_fingerprint=source.fingerprint(),
        template_hash=chat_format.template_hash,
        end_of_turn=chat_format.end_of_turn,
        system_prompt=config.system_prompt,
        thinking=gathered.data.train.trains_thinking,
        base_revision=source.revision,
        config_fingerprint=source.config_fingerprint(),
        rendering=chat_format.rendering(),
        examples=chat_format.examples(),
        stop_tokens=tuple(tokenizer.convert_ids_to_tokens(stop_ids(bundle.model, chat_format))),
        quantization=quantization,
        pixels=(config.min_pixels, config.max_pixels) if chat_format.images else None,
        template_date=chat_format.date,
        allowed_tokens=chat_format.allowed,
    )
    bundle = ModelBundle(source, tokenizer, adapted, bundle.family, dtype, device)
    return Prepared(config, bundle, chat_format, gathered.data, arguments, record, gathered.backend)


def _load_data(config: Config, chat_format: ChatFormat, position_limit: int | None) -> Data:
    train_rows, validation = load_datasets(config, chat_format, position_limit)
    read = [train_rows, validation] if validation else [train_rows]
    found = [*warnings(train_rows), *(warnings(validation, train_rows) if validation else ())]
    for line in [*names_without_rows(config, read), *found]:
        console.warn(line)
    return Data(train_rows, validation)


def _check_sharding(config: Config, data: Data) -> None:
    """Processes that share a vision tower would all have to compute the same pictures at the same time."""
    datasets = [dataset for dataset in (data.train, data.validation) if dataset is not None]
    if config.trainer_args.get("fsdp") and any(any(dataset.encoded.pictures()) for dataset in datasets):
        raise SettingsError(
            "trainer_args: fsdp does not go together with rows that have pictures",
            "leave fsdp out: then each process has a model of its own, and they share the rows",
        )


def _with_weights_that_fit(config: Config, gathered: Gathered) -> Config:
    """Hold the size of the weights against the free memory, before loading them would fail halfway.

    Raises:
        RunError: A GPU is too small for them, and ``auto_fit`` is not set or does not help.
    """
    source, dtype, available = gathered.source, gathered.dtype.weights, free_bytes(gathered.device)
    needed = weight_bytes(source, dtype, quantization_of(config))
    if not any(Ranks.of_environment().collect([needed > available])):
        return config
    fault = f"the weights take {needed / 1e9:.2f} GB where there are {available / 1e9:.2f}"
    if gathered.device.type != "cuda":  # what the system can put aside is not counted as free
        console.warn(f"{fault}: choose a smaller model, or set torch_dtype: bfloat16")
        return config
    kinds = {} if config.trainer_args.get("fsdp") else fewer_bits(config)
    smaller = [Remedy(changes, weight_bytes(source, dtype, kind)) for kind, changes in kinds.items()]
    remedies = fitting(smaller, available)
    if remedies and config.auto_fit:
        return applied(config, remedies[0], fault)
    raise RunError(fault, any_of(remedies, "choose a smaller model: fewer bits would not make it fit"))
