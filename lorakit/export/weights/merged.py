"""The weights of a base with an adapter computed into them, one tensor at a time.

Only what the adapter touches is computed, in float32, and rounded once; every other tensor is the base's own, byte for
byte where its number format stays. Names and layout are those of the base's files, which is what other tools read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from lorakit.config import Config
from lorakit.errors import AdapterError, SettingsError
from lorakit.export.weights.experts import changed as changed_experts
from lorakit.export.weights.experts import in_files, wrappers
from lorakit.export.weights.tensors import ModelTensors
from lorakit.model_config.added_tokens import grown, is_token_wrapper

Compute = Callable[[Callable[[], torch.Tensor]], torch.Tensor]  # from how the base's own is read to the changed one
_HEAD = "lm_head.weight"
FORMATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in FORMATS.items()}


def merged_tensors(model: Any, base: ModelTensors, dtype: torch.dtype | None) -> ModelTensors:
    """Return the tensors of the base's files, those changed by what is in use replaced.

    Args:
        model: A ``peft.PeftModel`` over the base, with the adapters in use that are to be merged.
        base: The base's files.
        dtype: Of what floats; None leaves each tensor the format it has in the base's files.

    Raises:
        AdapterError: A changed layer has no place in the base's files.
    """
    shapes, changed = dict(base.shapes), _changes(model, base)
    rows, ends = len(model.get_base_model().get_input_embeddings().weight), _ends_of(model)
    for name, compute in changed.items():
        # An output layer that is tied to the embeddings no longer, or ends that have rows of more tokens.
        if name not in shapes or (name.endswith(ends) and shapes[name][0] != rows):
            shapes[name] = tuple(compute().shape)

    def read(name: str) -> torch.Tensor:
        before = base.read(name) if name in base.shapes else None
        wanted = dtype or (format_of(base) if before is None or name in base.widened else before.dtype)
        if name in changed:
            return changed[name]().to(wanted)
        assert before is not None
        return before.to(wanted) if before.is_floating_point() else before

    return ModelTensors(shapes, read)


def chosen_format(config: Config, base: ModelTensors) -> torch.dtype:
    """Return the number format that safetensors are written in, as far as it is one.

    Raises:
        SettingsError: ``export_dtype`` is for another kind of file.
    """
    if config.export_dtype not in {"auto", *FORMATS}:
        raise SettingsError(f"export_dtype: {config.export_dtype} is for GGUF files", "set f32, f16, bf16 or auto")
    return FORMATS.get(config.export_dtype) or format_of(base)


def format_of(base: ModelTensors) -> torch.dtype:
    """Return the number format of a base's files: that of its largest tensor, bfloat16 where it is in fewer bits."""
    largest = max(base.shapes, key=lambda name: torch.Size(base.shapes[name]).numel())
    if base.widened:
        return torch.bfloat16
    dtype = base.read(largest).dtype
    return dtype if dtype in NAMES else torch.float32


def unties_head(model: Any) -> bool:
    """Tell whether merging parts an output layer from the embeddings to which the base ties it."""
    base = model.get_base_model()
    ends = {_HEAD, _embedding_of(base)}
    return _is_tied(base) and not _are_ends_alike(model) and any(name in ends for name, _ in _changed_parameters(model))


def _changes(model: Any, base: ModelTensors) -> dict[str, Callable[[], torch.Tensor]]:
    """Return what is not the base's own, by its name in the base's files."""
    own = model.get_base_model()
    embedding = _place_of(_embedding_of(own), base.shapes)
    changed: dict[str, Callable[[], torch.Tensor]] = {}
    for name, compute in _changed_parameters(model):
        place = _place_in(own, name, base)
        source = place
        if place is None and name == _HEAD and _is_tied(own):
            place, source = name, embedding
        if place is None or source is None:
            raise AdapterError(
                f"the adapter changes {name}, which the base's files do not have under such a name",
                "merging takes models whose files have the names that transformers gives them",
            )
        changed[place] = partial(compute, partial(base.read, source))
    changed |= _changed_experts(own, base)
    changed |= {place: compute for place, compute in _grown_head(own, base) if place not in changed}
    if _is_tied(own) and embedding in changed and _HEAD not in changed and not _are_ends_alike(model):
        changed[_HEAD] = partial(base.read, embedding)  # PEFT adapts the embeddings alone
    return changed


def _grown_head(own: Any, base: ModelTensors) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Yield what an output layer of its own has in files without rows for the tokens that an adapter adds."""
    rows, head = len(own.get_input_embeddings().weight), own.get_output_embeddings()
    if _is_tied(own) or head is None:
        return
    path = next(name for name, module in own.named_modules() if module is head)
    for parameter in ("weight", "bias"):
        place = _place_of(f"{path}.{parameter}", base.shapes)
        if place is not None and base.shapes[place][0] < rows:
            yield place, partial(_with_more_rows, partial(base.read, place), rows)


def _with_more_rows(read_base: Callable[[], torch.Tensor], rows: int) -> torch.Tensor:
    return grown(read_base(), rows)


def _changed_experts(own: Any, base: ModelTensors) -> dict[str, Callable[[], torch.Tensor]]:
    """Return the weights of experts that are changed, by their names in the base's files, which may take them apart."""
    found: dict[str, Callable[[], torch.Tensor]] = {}
    for path, parameter, wrapper in wrappers(own):
        name = f"{path}.{parameter}"
        if base.shapes.get(name) == tuple(wrapper.get_param().shape):
            found[name] = partial(_changed_in_file, wrapper, partial(base.read, name))
            continue
        apart = in_files(own, name, wrapper.get_param())
        if absent := sorted(set(apart) - set(base.shapes)):
            raise AdapterError(
                f"the adapter changes {name}, and the base's files have no {absent[0]}",
                "merging takes models whose files have the names that transformers gives them",
            )
        parts = _Apart(own, name, wrapper)
        found |= {place: partial(parts.take, place) for place in apart}
    return found


def _changed_in_file(wrapper: Any, read_base: Callable[[], torch.Tensor]) -> torch.Tensor:
    return changed_experts(wrapper, read_base())


def _place_in(own: Any, name: str, base: ModelTensors) -> str | None:
    """Find a parameter in the base's files, by the name that transformers would save it under."""
    path, _, parameter = name.rpartition(".")
    try:
        value = getattr(own.get_submodule(path), parameter)
        saved = list(in_files(own, name, value))
    except (AttributeError, KeyError, ValueError, RuntimeError):
        saved = []
    return saved[0] if len(saved) == 1 and saved[0] in base.shapes else _place_of(name, base.shapes)


class _Apart:
    """A changed parameter as the files have it; its parts are computed together, and each is kept until it is taken."""

    def __init__(self, own: Any, name: str, wrapper: Any) -> None:
        self._own, self._name, self._wrapper = own, name, wrapper
        self._parts: dict[str, torch.Tensor] = {}

    def take(self, place: str) -> torch.Tensor:
        if place not in self._parts:
            self._parts = in_files(self._own, self._name, changed_experts(self._wrapper, self._wrapper.get_param()))
        return self._parts.pop(place)


def _is_tied(base: Any) -> bool:
    return bool(getattr(base.config, "tie_word_embeddings", False))


def _embedding_of(base: Any) -> str:
    embedding = base.get_input_embeddings()
    own = getattr(embedding, "base_layer", embedding)
    path = next(name for name, module in base.named_modules() if module is own)
    return f"{path.removesuffix('.base_layer')}.weight"


def _ends_of(model: Any) -> tuple[str, str]:
    """Return the names of embedding and output layer, the former as files have it that leave out what stands before."""
    return _HEAD, ".".join(_embedding_of(model.get_base_model()).split(".")[-2:])


def _has_tokens(model: Any) -> bool:
    """Whether what is in use has rows of tokens."""
    return any(model.peft_config[name].trainable_token_indices for name in model.active_adapters)


def _are_ends_alike(model: Any) -> bool:
    """Whether PEFT gives the same to the embedding and to the output layer that is tied to it."""
    own = model.get_base_model()
    ends = (own.get_input_embeddings(), own.get_output_embeddings())
    has_rows = _has_tokens(model) and all(map(is_token_wrapper, ends))
    return _is_tied(own) and (has_rows or _are_saved_as_one(model))


def _are_saved_as_one(model: Any) -> bool:
    """Whether an adapter's own layers at both ends are one (``ensure_weight_tying``)."""
    from peft.utils import ModulesToSaveWrapper

    own = model.get_base_model()
    ends = (own.get_input_embeddings(), own.get_output_embeddings())
    if not all(isinstance(end, ModulesToSaveWrapper) for end in ends):
        return False
    kept = [[end.modules_to_save[name].weight for name in model.active_adapters] for end in ends]
    return all(one is other for one, other in zip(*kept, strict=True))


def _changed_parameters(model: Any) -> Iterator[tuple[str, Compute]]:
    """Yield every parameter that what is in use changes: its name, and how it is computed from the base's own."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    base = model.get_base_model()
    head = base.get_output_embeddings()
    for path, module in base.named_modules():
        if isinstance(module, LoraLayer) and not hasattr(module, "parameter_name"):
            in_use = [
                name for name in module.active_adapters if name in module.lora_A or name in module.lora_embedding_A
            ]
            if in_use:
                yield f"{path}.weight", partial(_merged, module, "weight")
            if any(module.lora_bias.get(name) for name in in_use):
                yield f"{path}.bias", partial(_merged, module, "bias")
        elif is_token_wrapper(module) and not module.token_adapter.tied_adapter:
            if any(name in module.token_adapter.trainable_tokens_delta for name in module.active_adapters):
                yield f"{path}.weight", partial(_with_rows, module)
        elif isinstance(module, ModulesToSaveWrapper) and not (module is head and _are_saved_as_one(model)):
            for name in module.active_adapters:
                for parameter, value in module.modules_to_save[name].named_parameters():
                    yield f"{path}.{parameter}", partial(_own, value.detach())


def _merged(layer: Any, parameter: str, read_base: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Let PEFT merge a copy of a layer in float32, which covers DoRA, biases and transposed weights alike.

    The copy begins with what the base's files have, which the model in memory may have rounded.
    """
    loaded = layer.get_base_layer().get_parameter(parameter)
    of_the_files = torch.nn.Parameter(read_base().float(), requires_grad=False)
    own = copy.deepcopy(layer, {id(loaded): of_the_files}).float().cpu()
    own.merge(safe_merge=False, adapter_names=list(own.active_adapters))
    value: torch.Tensor = own.get_base_layer().get_parameter(parameter)
    return value.detach()


def _with_rows(module: Any, read_base: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Put the rows of tokens into those of the base's files, behind which the model may have more."""
    grown: torch.Tensor = module.token_adapter.base_layer.weight.detach().float().cpu().clone()
    of_the_files = read_base()
    grown[: len(of_the_files)] = of_the_files.float()
    for name in module.active_adapters:
        if name in module.token_adapter.trainable_tokens_delta:
            indices = torch.tensor(module.token_adapter.token_indices[name])
            grown[indices] = module.token_adapter.trainable_tokens_delta[name].detach().float().cpu()
    return grown


def _own(value: torch.Tensor, read_base: Callable[[], torch.Tensor]) -> torch.Tensor:
    return value.cpu()


def _place_of(name: str, names: dict[str, Any]) -> str | None:
    """Find a parameter in the base's files, which may leave out or add what stands before the layers."""
    if name in names:
        return name
    parts = name.split(".")
    for start in range(1, len(parts) - 1):  # h.0.attn.c_attn.weight for transformer.h.0.attn.c_attn.weight
        if (shorter := ".".join(parts[start:])) in names:
            return shorter
        found = [other for other in names if other.endswith("." + shorter)]
        if found:
            return found[0] if len(found) == 1 else None
    return None
