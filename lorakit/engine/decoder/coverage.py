"""What the decoder covers: which models, and which adapters on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.functional import pad

from lorakit.engine.backends.cpu.build import DECODING
from lorakit.engine.backends.cpu.levels import NoKernelsError
from lorakit.engine.backends.cpu.library import load
from lorakit.engine.decoder.weights import UNIT, held_as_is
from lorakit.engine.families import is_known, is_silu
from lorakit.engine.layers.attach import base_model
from lorakit.engine.layers.attention_layer import window_of as attention_window
from lorakit.engine.layers.half_weights import HalfLinear

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
GATED = ("gate_proj", "up_proj", "down_proj")
_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_FIXED_ANGLES = frozenset({"default", "linear", "llama3", "yarn"})  # others depend on how long the text is
_LARGEST_HEAD = 1024
_UNBOUNDED = 1 << 62


class NotCoveredError(Exception):
    """What is to be computed is not covered; says why. Caught where `generate` can do it instead."""


@dataclass(frozen=True)
class Adapters:
    """What the adapters in use add to each linear layer, by its place in the model.

    Attributes:
        factors: A [rank, inputs] and B [units, rank, 16] with its scaling.
    """

    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    def equals(self, other: Adapters) -> bool:
        """Whether the other ones are the same, number by number."""
        return self.factors.keys() == other.factors.keys() and all(
            torch.equal(mine, theirs)
            for name, pair in self.factors.items()
            for mine, theirs in zip(pair, other.factors[name], strict=True)
        )


@cache
def decode_function() -> Callable[..., None]:
    """Return the function of decoding.cpp.

    Raises:
        NoKernelsError: It is not to be had here.
    """
    return load(DECODING).decode  # type: ignore[no-any-return]


def decoder_fault(model: Any) -> str | None:
    """Say why a model cannot be decoded here; None if it can. decoding.cpp is compiled now if it is not in the cache.

    Adapters are looked at when answers begin.
    """
    try:
        fault = _model_fault(base_model(model))
        if fault is None:
            decode_function()
    except NoKernelsError as error:
        return str(error)
    return fault


def _model_fault(base: Any) -> str | None:
    if base.device.type != "cpu" or base.config.model_type not in _FAMILIES:
        return f"not for {base.device.type if base.device.type != 'cpu' else base.config.model_type}"
    decoder = base.get_decoder()
    if not all(is_known(layer) and is_silu(layer.mlp) for layer in decoder.layers):
        return "the layers are not those of the family"
    attention = decoder.layers[0].self_attn
    if outputs_of(attention.q_proj) % outputs_of(attention.k_proj):
        return "its heads do not share keys evenly"
    size = int(attention.head_dim)
    has_fixed_angles = getattr(decoder.rotary_emb, "rope_type", None) in _FIXED_ANGLES
    if (
        not has_fixed_angles
        or size > _LARGEST_HEAD
        or angles(decoder, torch.arange(1), torch.float32)[0].numel() != size
    ):
        return "its positions are written in another way"
    inner = [getattr(linear, "base_layer", linear) for linear in linears(base).values()]
    weights = [linear.weight.data for linear in (decoder.embed_tokens, *inner)]
    if not (
        all(type(linear) in (torch.nn.Linear, HalfLinear) for linear in inner)
        and all(type(weight) is torch.Tensor and held_as_is(weight) is not None for weight in weights)
    ):
        return "its weights are held in another way"
    return None


def adapters_in_use(base: Any, dtype: torch.dtype) -> Adapters:
    """Copy what the adapters in use add to each linear layer.

    Args:
        base: The model, out of PEFT's wrapper.
        dtype: Of the activations.

    Raises:
        NotCoveredError: One adds more than two matrices.
    """
    factors = {}
    for name, linear in linears(base).items():
        found = _factors(linear)
        if found:
            a = torch.cat([one for one, _ in found]).to(dtype).contiguous()  # [rank, inputs]
            b = torch.cat([other for _, other in found], dim=1)  # [outputs, rank]
            b = pad(b, (0, 0, 0, -len(b) % UNIT))
            factors[name] = (a, b.view(-1, UNIT, b.shape[1]).transpose(1, 2).to(dtype).contiguous())
    if "peft" in sys.modules:  # its import takes a second
        _check_nothing_else_is_adapted(base)
    return Adapters(factors)


def _check_nothing_else_is_adapted(base: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    covered = {id(linear) for linear in linears(base).values()}
    for module in base.modules():
        is_other = isinstance(module, BaseTunerLayer) and id(module) not in covered and not module.disable_adapters
        if isinstance(module, AuxiliaryTrainingWrapper) or is_other:
            raise NotCoveredError("the adapter has more than the matrices of LoRA")


def _factors(linear: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return A and the scaled B, in float32, of each adapter in use on a linear layer."""
    if not hasattr(linear, "base_layer"):
        return []
    from peft.tuners.lora import Linear

    if type(linear) is not Linear or linear.merged:
        raise NotCoveredError("the adapter is not plain LoRA, or is merged")
    if linear.disable_adapters:
        return []
    found = []
    for name in linear.active_adapters:
        if name not in linear.lora_A:
            continue
        a, b = linear.lora_A[name], linear.lora_B[name]
        if name in linear.lora_variant or a.bias is not None or b.bias is not None:
            raise NotCoveredError("the adapter is not plain LoRA")
        found.append((a.weight.data.float(), b.weight.data.float() * linear.scaling[name]))
    return found


def angles(decoder: Any, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of each position's angles, each [positions, head size]."""
    with torch.inference_mode():
        cos, sin = decoder.rotary_emb(torch.empty(1, dtype=dtype), positions[None])
    return cos[0].contiguous(), sin[0].contiguous()


def window_of(attention: Any) -> int:
    """Return how many tokens a token of an attention layer sees, itself included."""
    return attention_window(attention) or _UNBOUNDED


def linears(base: Any) -> dict[str, Any]:
    """Return the linear layers of a model by their places."""
    found: dict[str, Any] = {}
    for number, layer in enumerate(base.get_decoder().layers):
        for part, names in ((layer.self_attn, PROJECTIONS), (layer.mlp, GATED)):
            found |= {f"layers.{number}.{name}": getattr(part, name) for name in names}
    return found | {"head": base.get_output_embeddings()}


def outputs_of(linear: Any) -> int:
    """Count the outputs of a linear layer."""
    return int(getattr(linear, "base_layer", linear).weight.shape[0])
