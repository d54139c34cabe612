"""A loaded model's modules given faster forwards of the same values: one table, which can be undone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.engine.backends.base import Backend
from lorakit.engine.layers import attention_layer, decoder_layer, last_layer, lora_linear, pointwise
from lorakit.engine.layers.attach import backend_of, base_model
from lorakit.engine.ops.row_dropout import DropoutPlace, RowsOfPass
from lorakit.engine.pieces import pieces_of

Forward = Callable[..., Any]
_INSTALLED = "lorakit_installed"


@dataclass(frozen=True)
class Part:
    """One kind of module that the engine computes itself.

    Attributes:
        name: Of the kind.
        matches: Whether a module is of it, given the model that it belongs to, out of any wrapper.
        piece: Of `Pieces`, without which the model keeps its own.
        forward: Makes the new forward of one, which falls back to what the module had where its state asks for more.
    """

    name: str
    piece: str
    matches: Callable[[torch.nn.Module, Any], bool]
    forward: Callable[[Any, Backend], Forward]


# In this order: the last layer wraps what the decoder layer has become.
PARTS = (
    Part("lora_linear", "linears", lora_linear.matches, lora_linear.fast_forward),
    Part("norm", "layers", pointwise.is_norm, pointwise.norm_forward),
    Part("mlp", "layers", pointwise.is_gated_mlp, pointwise.gated_forward),
    Part("attention", "layers", attention_layer.matches, attention_layer.packed_forward),
    Part("decoder_layer", "layers", decoder_layer.matches, decoder_layer.packed_forward),
    Part("last_layer", "layers", last_layer.matches, last_layer.tail_forward),
)
PART_NAMES = frozenset(part.name for part in PARTS)


def accelerate(model: Any, without: Collection[str] = ()) -> None:
    """Let modules compute with the engine's functions, by the backend that is attached to the model.

    Modules that these do not cover keep their own forward, and so do those of a model that they do not serve (see
    `pieces`); those that have been prepared before what they have. The
    weights are not touched.

    Args:
        model: With or without a PEFT adapter.
        without: Names of `PARTS` that are left out.
    """
    base, backend, pieces = base_model(model), backend_of(model), pieces_of(base_model(model))
    served = {part.name for part in PARTS if getattr(pieces, part.piece)}
    installed: dict[tuple[int, str], tuple[Any, Any]] = vars(base).setdefault(_INSTALLED, {})
    for part in PARTS:
        if part.name in without or part.name not in served:
            continue
        for module in model.modules():
            key = (id(module), part.name)
            if key not in installed and part.matches(module, base):
                installed[key] = (module, vars(module).get("forward"))
                module.forward = part.forward(module, backend)
    _place_dropouts(model)


def restore(model: Any) -> None:
    """Give every module the forward back that it had before `accelerate`."""
    installed = vars(base_model(model)).pop(_INSTALLED, {})
    for module, own_forward in reversed(installed.values()):
        if own_forward is None:
            del module.forward  # the class's own again
        else:
            module.forward = own_forward


def _place_dropouts(model: Any) -> None:
    """Tell each LoRA layer of a model where it stands.

    Args:
        model: With or without PEFT's wrapper; its base gets the rows of the pass, for `begin_pass`.
    """
    from peft.tuners.lora import Linear

    base = base_model(model)
    rows = vars(base).setdefault("rows_of_pass", RowsOfPass())
    tower = getattr(getattr(base, "model", None), "visual", None)
    in_tower = {id(module) for module in tower.modules()} if isinstance(tower, torch.nn.Module) else set()
    for number, layer in enumerate(module for module in model.modules() if type(module) is Linear):
        layer.dropout_place = DropoutPlace(rows, number, id(layer) in in_tower)
