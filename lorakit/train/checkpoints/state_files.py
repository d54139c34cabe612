"""States of optimizer, schedule and random numbers in files of data only: never a pickle, which could run code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lorakit.outgoing import strict_json

_TREE = "tree"


def write_state(file: Path, state: Any) -> None:
    """Write nested dictionaries, lists and tuples of tensors and plain values into one safetensors file.

    Args:
        file: ``*.safetensors``; the structure is JSON in its header.
        state: What ``state_dict()`` returns.

    Raises:
        TypeError: It holds something else.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _to_plain(state, tensors)
    save_file(tensors, file, metadata={_TREE: strict_json(tree)})


def read_state(file: Path) -> Any:
    """Read what `write_state` wrote: the same structure, types and values, tensors on the CPU."""
    with safe_open(file, framework="pt") as opened:
        tree = json.loads(opened.metadata()[_TREE])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    return _from_plain(tree, tensors)


def _to_plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()  # views of one memory are refused
        return {"tensor": name}
    if isinstance(value, dict):
        return {"mapping": [[_to_plain(key, tensors), _to_plain(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_to_plain(item, tensors) for item in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or type(value) in {bool, int, float, str}:
        return value
    raise TypeError(f"a {type(value).__name__} in a state that is to be saved")


def _from_plain(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float(content)
    if kind == "mapping":
        return {_from_plain(key, tensors): _from_plain(item, tensors) for key, item in content}
    items = [_from_plain(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)
