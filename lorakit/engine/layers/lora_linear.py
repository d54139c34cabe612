"""PEFT's LoRA layers, and the linear layers beside them, computed by `LoraLinears`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from lorakit.engine.backends.base import Backend
from lorakit.engine.backends.operands import LoraFactors, Projection
from lorakit.engine.layers.half_weights import HalfLinear, half_kinds
from lorakit.engine.ops.lora_linear import project


def matches(module: torch.nn.Module, base: Any) -> bool:
    """Whether a module is a LoRA layer of PEFT that `LoraLinears` covers.

    A layer goes back to PEFT's own forward by itself whenever its state asks for more: a merged or disabled adapter,
    several active ones, DoRA, a trained bias, or a quantised base.
    """
    if not hasattr(module, "base_layer"):
        return False
    from peft.tuners.lora import Linear

    # a subclass may quantise what it is given, or its weights
    return type(module) is Linear and type(module.base_layer) in _plain_kinds()


@cache
def _plain_kinds() -> frozenset[type]:
    """Layers that multiply by their weight and add their bias, and do nothing else."""
    from transformers.pytorch_utils import Conv1D

    return frozenset({torch.nn.Linear, Conv1D, *half_kinds().values()})


def apply_linears(x: torch.Tensor, layers: Sequence[Any], backend: Backend) -> tuple[torch.Tensor, ...]:
    """Return what each of several linear layers makes of one input [..., in]: [..., out].

    Together, where `LoraLinears` covers all of them; else one by one.
    """
    projections = covered_projections(layers, x.shape[:-1].numel())
    return tuple(layer(x) for layer in layers) if projections is None else project(x, projections, backend)


def covered_projections(layers: Sequence[Any], tokens: int) -> list[Projection] | None:
    """Return what linear layers compute of inputs with so many tokens, dropout drawn anew; None if one is not covered.

    Covered are frozen linear layers and prepared LoRA layers that nobody watches.
    """
    return [_projection(layer, tokens) for layer in layers] if all(map(_is_covered, layers)) else None


def fast_forward(layer: Any, backend: Backend) -> Callable[..., torch.Tensor]:
    """Return the forward of a LoRA layer."""
    peft_forward = layer.forward

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or not _has_plain_adapter(layer):
            return peft_forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        return project(x, [_projection(layer, x.shape[:-1].numel())], backend)[0]

    forward.is_fast = True  # type: ignore[attr-defined]
    return forward


def _projection(layer: Any, tokens: int) -> Projection:
    base = getattr(layer, "base_layer", layer)
    weight = base.weight if isinstance(base, torch.nn.Linear) else base.weight.T
    if base is layer:
        return Projection(weight, base.bias)
    [name] = layer.active_adapters
    probability = getattr(layer.lora_dropout[name], "p", 0.0) if layer.training else 0.0
    keep_mask = None
    if probability:
        keep_mask = layer.dropout_place.keep_mask((tokens, weight.shape[1]), probability, weight.device)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return Projection(weight, base.bias, LoraFactors(a, b, layer.scaling[name] / (1 - probability), keep_mask))


def _is_covered(layer: Any) -> bool:
    if layer._forward_pre_hooks or layer._forward_hooks:
        return False
    if type(layer) in (torch.nn.Linear, HalfLinear):
        return "forward" not in vars(layer) and not any(parameter.requires_grad for parameter in layer.parameters())
    return hasattr(layer.forward, "is_fast") and _has_plain_adapter(layer)


def _has_plain_adapter(layer: Any) -> bool:
    adapters = layer.active_adapters
    return (
        len(adapters) == 1
        and (name := adapters[0]) in layer.lora_A
        and not layer.disable_adapters
        and not layer.merged
        and name not in layer.lora_variant  # DoRA and other variants
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and not layer.base_layer.weight.requires_grad
        and layer.base_layer.weight.is_floating_point()
    )
