"""From a folder to a tokenizer and a model ready to compute."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from lorakit.config import Config
from lorakit.engine import (
    PACKED_FAMILIES,
    Backend,
    DtypeChoice,
    Ranks,
    attach_backend,
    choose_backend,
    choose_dtype,
    hold_in_half,
)
from lorakit.errors import ModelError
from lorakit.model_config.added_tokens import grow
from lorakit.model_config.checks.adapter_bounds import FRACTIONS, is_finite
from lorakit.model_config.computing import let_engine_compute
from lorakit.model_config.config_bounds import check_generation_file, check_sizes
from lorakit.model_config.model_class import check_is_whole, class_to_read
from lorakit.model_config.source import ModelSource, tensor_headers
from lorakit.model_config.trust import (
    check_own_code,
    check_weight_files,
    first_line,
    is_fault,
    needs_own_code,
    read_settings,
)
from lorakit.model_config.weights.quantization import loading_arguments
from lorakit.model_config.weights.widened import is_narrow, read_widened, say_widened

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TESTED_FAMILIES = {"qwen3": "Qwen3", "llama": "Llama", "gpt2": "GPT-2", "opt": "OPT", "qwen3_vl": "Qwen3-VL"}
# How a model's forward pass is called, whatever its config.json says.
_CALLED = {"return_dict": True, "output_hidden_states": False, "output_attentions": False, "is_encoder_decoder": False}


@dataclass(frozen=True)
class ModelBundle:
    """A base model with everything that belongs to it.

    Attributes:
        source: Where it came from.
        tokenizer: Its own.
        model: On ``device``, in the format of ``dtype``; wrapped by PEFT once an adapter is attached.
        family: transformers' ``model_type``.
        dtype: The number format of the frozen weights, and why.
        device: Where it computes.
    """

    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    model: Any
    family: str
    dtype: DtypeChoice
    device: torch.device


def quiet_libraries() -> None:
    """Keep progress bars and advice of the libraries out of our output; errors still show."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b.*")


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a model.

    Raises:
        ModelError: Its files are missing or damaged, or have changed since the model was found.
    """
    quiet_libraries()
    with source.unchanged():
        return _read_tokenizer(source)


def _check_settings_load(source: ModelSource) -> None:
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=source.runs_own_code)
    except BaseException as error:  # classes of families raise what they like
        if not is_fault(error):
            raise
        raise ModelError(
            f"{source.name}: its config.json cannot be used ({first_line(error)})",
            "correct config.json, or fetch the model again, all its files from the same place",
        ) from error


def _read_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    check_own_code(source)
    check_sizes(source, read_settings(source))
    check_generation_file(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, local_files_only=True, trust_remote_code=source.runs_own_code
        )
        vocabulary = set(tokenizer.get_vocab()) - set(tokenizer.added_tokens_encoder)
        assert tokenizer.all_special_ids is not None  # where one of them has none, it looks for it without end
    except BaseException as error:  # the formats behind it raise what they like, and Rust panics
        if not is_fault(error):
            raise
        if "custom code" in str(error):
            raise needs_own_code(source) from error
        _check_settings_load(source)  # a tokenizer's loading reads them first
        raise ModelError(
            f"{source.name}: its tokenizer cannot be loaded ({first_line(error)})",
            "the folder needs tokenizer.json, or vocab.json and merges.txt, beside config.json",
        ) from error
    if not vocabulary:
        raise ModelError(
            f"{source.name}: its tokenizer has no vocabulary",
            "the folder needs tokenizer.json, or vocab.json and merges.txt, beside config.json",
        )
    return tokenizer  # type: ignore[no-any-return]


def read_model_type(source: ModelSource) -> tuple[str, int | None]:
    """Read the model's type and its longest sequence in tokens from config.json, without loading weights."""
    settings = read_settings(source)
    text = settings.get("text_config", settings)
    limits = [text.get(key) for key in ("max_position_embeddings", "n_positions")]
    return str(settings["model_type"]), next((limit for limit in limits if isinstance(limit, int)), None)


def choose_format(
    config: Config, source: ModelSource, device: torch.device, earlier: str | None = None, may_be_half: bool = True
) -> DtypeChoice:
    """Choose the number format of a model's weights: see `choose_dtype`.

    Args:
        config: What is asked for. FSDP shards tensors of one format only.
        source: Of the model.
        device: Where it will compute.
        earlier: The format of the run that is resumed, to be kept.
        may_be_half: Whether a CPU may round in products with weights.
    """
    family, _ = read_model_type(source)
    is_whole = not (config.load_in_4bit or config.load_in_8bit or config.trainer_args.get("fsdp"))
    # By a list of families: how weights are read is chosen before there are any to prove something on.
    may_be_half = may_be_half and config.cpu_kernels and is_whole and family in PACKED_FAMILIES
    requested = earlier or config.torch_dtype
    if requested == "auto" and Ranks.of_environment().count > 1:
        may_be_half = False  # processes beside each other measure differently, and must compute alike
    choice = choose_dtype(requested, device, may_be_half)
    return replace(choice, reason="as in the run that is resumed") if choice.name == earlier else choice


def load_model(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    dtype: DtypeChoice,
    device: torch.device,
    quantization: str | None = None,
    rows: int = 0,
    backend: Backend | None = None,
) -> ModelBundle:
    """Load the weights onto the device.

    Args:
        source: Of the model.
        tokenizer: Of the model.
        dtype: Of the weights; of the products, where the weights are quantised.
        device: Where it computes.
        quantization: See `quantization_of`.
        rows: Give the model at least so many rows of its embedding: an adapter must bring those that it lacks.
        backend: What computes for it; PyTorch without one.

    Raises:
        ModelError: They are missing or damaged, do not belong to the tokenizer, or the model is none that could be
            trained or asked; or its files have changed since it was found.
    """
    with source.unchanged():
        model = _read_weights(source, dtype, loading_arguments(quantization, dtype.dtype, device))
    own_rows = model.get_input_embeddings().weight.shape[0]
    if rows > own_rows:
        grow(model, rows)
    elif len(tokenizer) > own_rows:
        raise ModelError(
            f"{source.name}: its tokenizer has {len(tokenizer)} tokens but the model only {own_rows}",
            "the tokenizer's files belong to another model: fetch both from the same place",
        )
    unsound = next((name for name, tensor in model.named_parameters() if not is_finite(tensor)), None)
    if unsound is not None:
        raise ModelError(
            f"{source.name}: {unsound} holds numbers that are not finite, so no answer could be computed",
            "fetch the model again, or choose another one",
        )
    if quantization is None:  # else it is there already, and bitsandbytes refuses to be moved
        model = model.to(device)
    backend = backend or choose_backend(False, device, dtype.dtype, "none was chosen")
    attach_backend(model, backend)
    let_engine_compute(model, source, dtype.dtype)
    if dtype.is_half:
        hold_in_half(model, backend)
    return ModelBundle(source, tokenizer, model, model.config.model_type, dtype, device)


def _reason(error: BaseException) -> str:
    if "ignore_mismatched_sizes" in str(error):  # which stands for a table in transformers' own log
        return "its tensors have other shapes than config.json says"
    return first_line(error)


def _read_weights(source: ModelSource, dtype: DtypeChoice, arguments: dict[str, Any]) -> PreTrainedModel:
    check_weight_files(source)
    kind = class_to_read(source)
    try:
        if is_narrow(source):
            format_of_weights = torch.bfloat16 if dtype.is_half else dtype.dtype
            say_widened(source, format_of_weights)
            model, report = read_widened(source, kind, format_of_weights, arguments)
        else:
            model, report = kind.from_pretrained(
                source.folder,
                dtype="auto" if dtype.is_half else dtype.dtype,  # as it is in the files, to be read without a copy
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=source.runs_own_code,
                output_loading_info=True,
                **arguments,
            )
    except BaseException as error:  # a dozen classes, from safetensors' own to OSError
        if not is_fault(error):
            raise
        raise ModelError(
            f"{source.name}: the model cannot be loaded ({_reason(error)})",
            "it needs config.json and *.safetensors of a causal language model; if they are there, fetch them again",
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers fills these with random numbers
        raise ModelError(
            f"{source.name}: the weight files lack {len(missing)} tensors, {missing[0]} among them",
            "the download is not complete: fetch the model again",
        )
    check_is_whole(source, model, report["unexpected_keys"])
    if not arguments:
        _check_bits(source, model)
    _check_formats(source, model)
    _answer_plainly(model)
    return model  # type: ignore[no-any-return]


def _check_bits(source: ModelSource, model: PreTrainedModel) -> None:
    """Refuse whole weights where config.json says that bitsandbytes has made them smaller."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        is_small = type(module).__module__.startswith("bitsandbytes.") and isinstance(module, torch.nn.Linear)
        if is_small and isinstance(weight, torch.Tensor) and weight.is_floating_point():
            raise ModelError(
                f"{source.name}: the model cannot be loaded (by its quantization_config {name} has fewer bits, and its "
                "weights are whole)",
                "leave quantization_config out of config.json, and set load_in_8bit or load_in_4bit here",
            )


def _check_formats(source: ModelSource, model: PreTrainedModel) -> None:
    """Refuse whole numbers where the model has weights: transformers would take them for such."""
    read = {name for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    for name, header in tensor_headers(source.folder):
        if name in read and header["dtype"] not in FRACTIONS:
            raise ModelError(
                f"{source.name}: the model cannot be loaded ({name} is written as {header['dtype']}, which are no "
                "weights)",
                "fetch the model again, or choose another one",
            )


def _answer_plainly(model: PreTrainedModel) -> None:
    """Leave out what a model's files say of how it is to be called: that is for its callers to say.

    Of generation_config.json, and of what config.json has of the same, only the tokens at which answers end are taken:
    `generate` would take each other setting that it has been given none for, searches with code from a hub among them.
    """
    from transformers import GenerationConfig

    ends = getattr(model.generation_config, "eos_token_id", None)
    model.generation_config = GenerationConfig(eos_token_id=ends)
    for settings in {id(part): part for part in (model.config, model.config.get_text_config())}.values():
        for name, value in _CALLED.items():
            setattr(settings, name, value)
