"""Finding an adapter again in merged weights: layer by layer, by its effect on a few inputs.

Each adapted layer is given inputs of +1 and -1. Let D be what the adapter in use adds to the outputs, M what the
merged weights add, both in float32. Rounding the merged weights W to a number format with the relative error u moves
the outputs by at most about u * norm(W) for each input, so that is how far M may be from D. Where D is large enough
to be told from rounding, the share of it that is found, <M, D> / <D, D>, must be near 1 as well: 2 is a scaling
applied twice, 0 a layer left out or a matrix transposed. An effect smaller than rounding is lost by rounding, which
is then no error of the merge; `found_share` says how much of the whole is there.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.export.weights.experts import changed, parameter_at, wrappers

_INPUTS = 4
_ARITHMETIC = 2.0**-18  # relative: the products themselves, in float32
_TELLS_FROM_ROUNDING = 0.5  # of the bound
_SHARES = (0.4, 1.5)  # found where an effect is about as large as rounding


@dataclass(frozen=True)
class LayerEffect:
    """What an adapter does in one layer.

    Attributes:
        path: Of the layer in the base model.
        parameter: Of it; those of experts, held together, have other names than ``weight``.
        base: Output of the layer without the adapter, [4, out].
        effect: What the adapter adds to it, [4, out].
    """

    path: str
    base: torch.Tensor
    effect: torch.Tensor
    parameter: str = "weight"


@dataclass(frozen=True)
class FoundEffect:
    """How much of an effect the merged weights have.

    Attributes:
        path: Of the layer.
        share: Found of it, 1 where rounding has lost nothing.
        distance: From the effect, over what rounding explains at most.
        is_right: Whether both are as rounding would have them.
        doubt: Deviation of the share by rounding that has nothing to do with the effect.
    """

    path: str
    share: float
    distance: float
    is_right: bool
    doubt: float = 0.0


def measure_effects(model: Any) -> list[LayerEffect]:
    """Probe every layer that what is in use changes.

    Args:
        model: A ``peft.PeftModel`` in evaluation mode.
    """
    from peft.tuners.lora import LoraLayer

    effects = _effects_on_experts(model.get_base_model())
    for path, module in model.get_base_model().named_modules():
        if hasattr(module, "parameter_name"):
            continue
        if isinstance(module, LoraLayer) and set(module.active_adapters) & set(module.scaling):
            layer = copy.deepcopy(module).float()
            vars(layer).pop("forward", None)  # PEFT's own, not the engine's
            with torch.inference_mode():
                inputs = _inputs(path, layer.get_base_layer())
                base = layer.get_base_layer()(inputs)
                effects.append(LayerEffect(path, base, layer(inputs) - base))
    return effects


def _effects_on_experts(base: Any) -> list[LayerEffect]:
    effects = []
    for path, name, wrapper in wrappers(base):
        own = wrapper.get_param().detach().float().cpu()
        inputs = signs(path, own.shape[-1])
        before = _through(own, inputs)
        effects.append(LayerEffect(path, before, _through(changed(wrapper, own), inputs) - before, name))
    return effects


def _through(weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Multiply [4, in] by the weights of all experts, [experts, out, in]: [4, experts * out]."""
    return (inputs @ weights.flatten(0, -2).T).detach()


def find_effects(effects: Sequence[LayerEffect], merged: Any, rounding: float) -> list[FoundEffect]:
    """Probe the same layers of merged weights.

    Args:
        effects: Of the adapter.
        merged: A plain model of transformers with the merged weights, or one of PEFT's over the base.
        rounding: Relative error of the format in which these were written.
    """
    return [_find(effect, merged, rounding) for effect in effects]


def found_share(effects: Sequence[LayerEffect], found: Sequence[FoundEffect]) -> float:
    """Return how much of the adapter's effect is there, all layers together."""
    energies = [float(effect.effect.square().sum()) for effect in effects]
    if not sum(energies):  # an adapter that does nothing
        return 1.0
    return sum(energy * layer.share for energy, layer in zip(energies, found, strict=True)) / sum(energies)


def share_doubt(effects: Sequence[LayerEffect], found: Sequence[FoundEffect]) -> float:
    """Return the deviation of what `found_share` gives, layers being independent of each other."""
    energies = [float(effect.effect.square().sum()) for effect in effects]
    if not sum(energies):
        return 0.0
    return math.hypot(*(energy * layer.doubt for energy, layer in zip(energies, found, strict=True))) / sum(energies)


def _find(effect: LayerEffect, merged: Any, rounding: float) -> FoundEffect:
    if effect.parameter != "weight":
        own = parameter_at(merged, effect.path, effect.parameter)
        return _held_against(effect, _through(own, signs(effect.path, own.shape[-1])), own, rounding)
    layer = merged.get_submodule(effect.path)
    whole = copy.deepcopy(layer).float().requires_grad_(False)
    plain = whole.get_base_layer() if hasattr(whole, "get_base_layer") else whole
    with torch.inference_mode():
        inputs = _inputs(effect.path, plain)
        outputs = whole(inputs)
    weight = plain.weight if inputs.is_floating_point() else plain.weight[inputs] / math.sqrt(_INPUTS)
    return _held_against(effect, outputs, weight, rounding)


def _held_against(effect: LayerEffect, outputs: torch.Tensor, weight: torch.Tensor, rounding: float) -> FoundEffect:
    there = outputs - effect.base
    bound = rounding * float(weight.norm()) * math.sqrt(_INPUTS) + _ARITHMETIC * float(outputs.norm())
    size = float(effect.effect.norm())
    share = float((there * effect.effect).sum()) / max(size**2, 1e-30)
    off = float((there - effect.effect).norm())
    distance = off / bound
    doubt = off / max(size, 1e-30) / math.sqrt(effect.effect.numel())
    is_seen = size > _TELLS_FROM_ROUNDING * bound
    is_right = distance <= 1 and (not is_seen or _SHARES[0] < share < _SHARES[1])
    return FoundEffect(effect.path, share, distance, is_right, doubt)


def _inputs(path: str, layer: Any) -> torch.Tensor:
    """Draw inputs for a layer: [4, in] of +1 and -1, or [4] rows of embeddings."""
    if isinstance(layer, torch.nn.Embedding):
        return torch.randint(layer.num_embeddings, (_INPUTS,), generator=_generator(path)).to(layer.weight.device)
    weight = layer.weight
    return signs(path, weight.shape[1] if isinstance(layer, torch.nn.Linear) else weight.shape[0]).to(weight)


def signs(path: str, width: int) -> torch.Tensor:
    """Return the inputs for a layer that multiplies, the same ones for the same path: [4, width] of +1 and -1."""
    return torch.randint(2, (_INPUTS, width), generator=_generator(path)) * 2.0 - 1.0


def _generator(path: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(path.encode()))
