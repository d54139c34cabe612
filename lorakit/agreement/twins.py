"""Small twins of a loaded model: its own classes, settings and weights, but few layers and few tokens.

One is left as transformers and PEFT made it; the others compute with the engine. Frozen weights are the same tensors in
all of them. Windows and chunks are made short, so that short rows go beyond them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.agreement.adaptable import adaptable_targets, decoder_of, has_other_parts
from lorakit.engine import PACKED, Pieces, accelerate, register_packed_attention, use_pieces

SHORT_WINDOW = 8
_MOST_TOKENS = 512  # of the vocabulary
_FEWEST_LAYERS = 2
_MOST_EXACT_BYTES = 3_000_000_000  # larger slices stay in their own format
# What attention is limited to: windows and chunks in tokens, and how many tokens or blocks an indexer chooses.
_WINDOWS = frozenset({"sliding_window", "attention_chunk_size", "attention_window_size", "window_size", "local_window"})
_LIMITS = {
    **dict.fromkeys((*_WINDOWS, "index_topk"), SHORT_WINDOW),
    **dict.fromkeys(("index_block_size", "index_topk_blocks", "topk_blocks"), 2),
}
_RANK = 2


class NotTriedError(Exception):
    """No twin could be made, or its own code fails; the reason is the message."""


@dataclass(frozen=True)
class Twins:
    """A model as its own code computes it, from which those are made that the engine computes.

    Attributes:
        reference: Adapted by PEFT, otherwise untouched.
        tokens: How many tokens it knows.
        unit_roundoff: Of its number format.
        formats: Its frozen tensors, and the formats that the loaded model holds them in; None for those that hold
            fewer bits than a format of floating point.
    """

    reference: Any
    tokens: int
    unit_roundoff: float
    formats: tuple[tuple[torch.Tensor, torch.dtype | None], ...] = ()

    def engine(self, pieces: Pieces) -> Any:
        """Return a twin that computes with these pieces.

        Raises:
            NotTriedError: Its attention cannot be replaced.
        """
        frozen = [tensor for tensor in self.reference.parameters() if not tensor.requires_grad]
        twin = copy.deepcopy(self.reference, {id(tensor): tensor for tensor in frozen})
        base = twin.get_base_model()
        use_pieces(base, pieces)
        if pieces.attention and not use_packed_attention(base):
            raise NotTriedError("its attention cannot be replaced")
        accelerate(twin)
        return twin

    def round_to(self, computed: torch.dtype) -> None:
        """Hold the frozen tensors as the loaded model does, for good.

        Args:
            computed: In which the model computes where its weights hold fewer bits.
        """
        for tensor, own in self.formats:
            tensor.data = tensor.data.to(own or computed)


def use_packed_attention(base: Any) -> bool:
    """Let the language model attend by `packed_attention`; return whether it will."""
    register_packed_attention()
    settings = base.config.get_text_config()
    nested = next((name for name in base.config.sub_configs if getattr(base.config, name, None) is settings), None)
    try:
        base.set_attn_implementation({nested: PACKED} if nested else PACKED)
    except (ValueError, ImportError):
        return False
    return bool(settings._attn_implementation == PACKED)


def twins_of(model: Any) -> Twins:
    """Make them, in float32 where that is not too large.

    Args:
        model: A causal language model of transformers, without an adapter; is not changed.

    Raises:
        NotTriedError: It has no layers that could be adapted.
    """
    lists = list(_layer_lists(model))
    kept = _layers_to_keep(model, lists)
    memo: dict[int, Any] = {id(part): part for part in _other_parts(model)}
    cut = tuple(f"{name}.{number}." for name, layers in lists for number in range(kept, len(layers)))
    quantised = _quantised(model, cut)
    shared = {id(tensor) for part in (*memo.values(), *quantised) for tensor in (*part.parameters(), *part.buffers())}
    memo |= {id(part): _like(part) for part in quantised} | _cut_tables(model)
    wanted = [
        tensor
        for name, tensor in model.named_parameters()
        if id(tensor) not in memo and id(tensor) not in shared and not name.startswith(cut)
    ]
    is_exact = all(tensor.dtype in _FLOATS for tensor in wanted) and _bytes(wanted) < _MOST_EXACT_BYTES
    for tensor in wanted:
        exact = tensor.detach().to(torch.float32 if is_exact else tensor.dtype)
        memo[id(tensor)] = torch.nn.Parameter(exact, requires_grad=False)
    try:
        for _, layers in lists:
            memo[id(layers)] = torch.nn.ModuleList([copy.deepcopy(layer, memo) for layer in layers[:kept]])
        twin = copy.deepcopy(model, memo).eval()
        if is_exact:
            for tensor in (*twin.parameters(), *twin.buffers()):
                if tensor.is_floating_point() and id(tensor) not in shared:
                    tensor.data = tensor.data.float()
        _shorten_windows(twin)
        formats = _formats(model, twin, shared)
        return Twins(_adapted(twin), _tokens(twin), _unit_roundoff(twin), formats)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise NotTriedError(f"no part of it can be tried: {error}") from error


_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def _formats(model: Any, twin: Any, shared: set[int]) -> tuple[tuple[torch.Tensor, torch.dtype | None], ...]:
    """Pair the twin's own tensors of floating point with the formats that they have in the model."""
    loaded = {name: tensor.dtype for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    own = ((name, tensor) for name, tensor in (*twin.named_parameters(), *twin.named_buffers()))
    return tuple(
        (tensor, found if (found := loaded.get(name)) in _FLOATS else None)
        for name, tensor in own
        if tensor.is_floating_point() and id(tensor) not in shared
    )


def _quantised(model: Any, cut: tuple[str, ...]) -> list[torch.nn.Linear]:
    """List the linear layers that hold their weights in fewer bits, those that are left out aside."""
    if getattr(model, "hf_quantizer", None) is None:
        return []
    named = model.named_modules()
    return [
        module
        for name, module in named
        if isinstance(module, torch.nn.Linear) and type(module) is not torch.nn.Linear and not name.startswith(cut)
    ]


def _like(linear: torch.nn.Linear) -> torch.nn.Linear:
    """Return a plain layer in the place of one that the engine leaves to itself, and that must not be copied."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(linear.in_features)
        made = torch.nn.Linear(linear.in_features, linear.out_features, linear.bias is not None)
    return made.requires_grad_(False).to(linear.weight.device)


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * 4 for tensor in tensors)


def _layer_lists(model: Any) -> Iterator[tuple[str, torch.nn.ModuleList]]:
    """Yield the lists of the decoder's layers by name; some families have several, side by side."""
    decoder = decoder_of(model)
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    inside = {id(module) for module in decoder.modules()}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and id(module) in inside and len(module) == count:
            yield name, module


def _layers_to_keep(model: Any, lists: list[tuple[str, torch.nn.ModuleList]]) -> int:
    """Count the first layers that have one of every kind among them."""
    if not lists:
        return 0
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    seen: dict[Any, int] = {}
    for _, layers in lists:
        for number, layer in enumerate(layers):
            kind = (*kinds[number : number + 1], *_kind_of(layer))
            seen.setdefault(kind, number)
    return max(_FEWEST_LAYERS, max(seen.values()) + 1)


def _kind_of(layer: torch.nn.Module) -> Iterator[Any]:
    """Yield what makes a layer differ from another: its parts, their choices, and the shapes of their weights."""
    for name, module in layer.named_modules():
        own = {key: value for key, value in vars(module).items() if isinstance(value, bool | str) and key[0] != "_"}
        own.pop("training", None)
        shapes = [(key, tuple(tensor.shape)) for key, tensor in module.named_parameters(recurse=False)]
        window = getattr(module, "sliding_window", None) is None
        yield name, type(module).__name__, tuple(sorted(own.items())), tuple(shapes), window


def _other_parts(model: Any) -> Iterator[torch.nn.Module]:
    """Yield what stands beside the language model and its output: towers for pictures and sounds."""
    if not has_other_parts(model):  # what stands before the logits belongs to the language model
        return
    decoder, head = decoder_of(model), model.get_output_embeddings()
    inside = {id(module) for module in (*decoder.modules(), *(head.modules() if head is not None else ()))}
    above = {id(module) for module in model.modules() if any(child is decoder for child in module.modules())}
    for module in model.modules():
        if id(module) in above and module is not decoder:
            yield from (child for child in module.children() if id(child) not in inside | above)


def _cut_tables(model: Any) -> dict[int, torch.nn.Parameter]:
    """Return the first rows of embeddings and of the output projection, by the tensors that they stand for."""
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    head = model.get_output_embeddings()
    tensors = [table.weight for table in tables]
    if isinstance(head, torch.nn.Linear):
        tensors += [tensor for tensor in (head.weight, head.bias) if tensor is not None]
    return {
        id(tensor): torch.nn.Parameter(tensor.detach()[:_MOST_TOKENS].clone(), requires_grad=False)
        for tensor in tensors
        if len(tensor) > _MOST_TOKENS and tensor.dtype in _FLOATS
    }


def _shorten_windows(twin: Any) -> None:
    """Shorten those of the language model; towers beside it are the loaded model's own, and stay as they are."""
    of_others = {id(module) for part in _other_parts(twin) for module in part.modules()}
    own = [module for module in twin.modules() if id(module) not in of_others]
    for owner in (twin.config, twin.config.get_text_config(), *own):
        limits = _LIMITS | ({"block_size": 2} if hasattr(owner, "topk_blocks") else {})
        for name in limits.keys() & vars(owner).keys():
            value, short = getattr(owner, name), max(limits[name], getattr(owner, "index_kpool", 0))
            if isinstance(value, int) and not isinstance(value, bool) and value > short:
                setattr(owner, name, short)
    for module in twin.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # it may lie beyond the rows that are left


def _adapted(twin: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    chosen, experts = adaptable_targets(twin)
    if not chosen and not experts:
        raise NotTriedError("it has no linear layers that could be adapted")
    settings = {"target_parameters": experts} if experts else {}
    lora = LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=chosen, init_lora_weights=False, **settings)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        adapted = get_peft_model(twin, lora).eval()
    for name, tensor in adapted.named_parameters():
        if "lora_B" in name:
            tensor.data *= 0.1  # to change the model, and not to drown it
    return adapted


def _tokens(twin: Any) -> int:
    head = twin.get_output_embeddings()
    rows = twin.get_input_embeddings().weight.shape[0]
    return int(min(rows, getattr(getattr(head, "weight", None), "shape", (rows,))[0]))


def _unit_roundoff(twin: Any) -> float:
    formats = {tensor.dtype for tensor in decoder_of(twin).parameters() if tensor.is_floating_point()}
    return max(float(torch.finfo(one).eps) / 2 for one in formats)
