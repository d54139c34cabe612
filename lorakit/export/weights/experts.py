"""Adapters on the weights of experts, which are held together as one parameter [experts, ...] of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

_NESTED = ".base_layer"  # PEFT puts one wrapper around another where a module has several such parameters


def wrappers(base: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield path and name of every parameter that has such an adapter in use, and PEFT's wrapper of it.

    Args:
        base: The model, out of PEFT's own wrapper.
    """
    from peft.tuners.lora.layer import ParamWrapper

    for path, module in base.named_modules():
        if isinstance(module, ParamWrapper) and set(module.active_adapters) & set(module.lora_A):
            yield path.replace(_NESTED, ""), module.parameter_name, module


def changed(wrapper: Any, own: torch.Tensor) -> torch.Tensor:
    """Return a parameter with what the adapters in use add to it, in float32."""
    value = own.detach().float().cpu()
    for name in wrapper.active_adapters:
        if name in wrapper.lora_A:
            value = value + wrapper.get_delta_weight(name).detach().float().cpu()
    return value


def parameter_at(model: Any, path: str, name: str) -> torch.Tensor:
    """Return a parameter of a plain model; of one with adapters what they make of it."""
    found = next((one for at, own, one in wrappers(model) if (at, own) == (path, name)), None)
    if found is None:
        value: torch.Tensor = model.get_submodule(path).get_parameter(name)
        return value.detach().float().cpu()
    return changed(found, found.get_param())


def in_files(base: Any, name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a parameter as the files of its family have it: by other names, or taken apart into experts."""
    from transformers.core_model_loading import revert_weight_conversion

    found: dict[str, torch.Tensor] = revert_weight_conversion(base, {name: value})
    return found
