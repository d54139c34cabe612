"""Embeddings that PEFT writes whole beside LoRA, as it does of itself where they were given rows for new tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

_PREFIX = "base_model.model."
# What PEFT's wrappers hold beside what they train, under the wrapped layer's name.
_HELD = re.compile(r"\.(original_module|modules_to_save|(?:token_adapter\.)?base_layer)\.weight$")
_ROWS = "token_adapter.trainable_tokens_delta"
_REPLACED = ("modules_to_save", "original_module")  # by the layer of its own that the adapter has
_UNUSED = "lorakit_unused"  # a name that no model has
_ROUNDING = 2.0**-7  # of bfloat16, in which either may have been stored


def rows_in(folder: Path) -> int:
    """Return how many rows the embeddings have that an adapter brings; 0 where it brings none."""
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        return 0
    kept = re.compile(r"(embed\w*|wte|lm_head|embed_out)(\.modules_to_save|\.token_adapter\.base_layer)?\.weight$")
    try:
        return max((shape[0] for name, shape in _shapes(weights) if kept.search(name) and len(shape) == 2), default=0)
    except (OSError, SafetensorError):  # a damaged file, of which attaching it says so
        return 0


def whole_embeddings(weights: Path, base: Any) -> tuple[str, ...]:
    """Return the names of the base's embeddings that a file has whole, for PEFT's ``modules_to_save``."""
    names = {name for name, _ in _shapes(weights)}
    return tuple(path for path in _embeddings(base) if f"{_PREFIX}{path}.weight" in names)


def copies_in(weights: Path, base: Any, known: int, needed: set[int]) -> tuple[str, ...]:
    """Return the tensors of a file that say nothing which the base or its other tensors do not say.

    Args:
        weights: Of an adapter.
        base: Its embeddings have as many rows as the adapter's.
        known: Rows that the base's own files have.
        needed: Rows beyond them that no other tensor of the adapter has.

    Raises:
        ValueError: One of them does say something else.
    """
    from safetensors import safe_open

    embeddings = _embeddings(base)
    found = []
    with safe_open(weights, framework="pt") as tensors:
        names = set(tensors.keys())
        for name in sorted(names):
            kind = _HELD.search(name)
            path = name.removeprefix(_PREFIX)[: -len(kind.group())] if kind else ""
            if kind is None or path not in embeddings:
                continue
            found.append(name)
            tensor, whole = tensors.get_tensor(name), f"{_PREFIX}{path}.weight"
            if kind[1] == "modules_to_save":
                is_copy = whole in names and torch.equal(tensors.get_tensor(whole), tensor)
            else:
                is_copy = _are_alike(tensor[:known], embeddings[path].weight.detach().cpu()[:known])
            if not is_copy:
                raise ValueError(f"{name} is not what the base has")
            if kind[1] not in _REPLACED and needed:
                raise ValueError(f"token {min(needed)} has a row in {name} only, which belongs to the base")
        found += _tied_rows(base, tensors, names)
    return tuple(found)


def _tied_rows(base: Any, tensors: Any, names: set[str]) -> list[str]:
    """Name the rows of tokens of a tied output layer, which PEFT writes once more beside those of the embedding."""
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    paths = [next((path for path, module in base.named_modules() if module is end), "") for end in ends]
    first, again = (f"{_PREFIX}{path}.{_ROWS}" for path in paths)
    if not base.config.get_text_config().tie_word_embeddings or not names.issuperset((first, again)):
        return []
    if not torch.equal(tensors.get_tensor(first), tensors.get_tensor(again)):
        raise ValueError(f"{again} is not what {first} is, and the model ties them")
    return [again]


def passed_over(names: tuple[str, ...]) -> dict[str, str] | None:
    """Return the ``key_mapping`` by which PEFT does not load tensors, into the base above all."""
    return {f"^{re.escape(name.removeprefix(_PREFIX))}$": _UNUSED for name in names} or None


def _are_alike(rows: torch.Tensor, own: torch.Tensor) -> bool:
    return rows.shape == own.shape and bool(
        torch.allclose(rows.float(), own.float(), rtol=_ROUNDING, atol=_ROUNDING**3)
    )


def _embeddings(base: Any) -> dict[str, Any]:
    """Return the layers at both ends by name, as the base has them under the wrappers of other adapters."""
    ends = [end for end in (base.get_input_embeddings(), base.get_output_embeddings()) if end is not None]
    found = {name: module for name, module in base.named_modules() if any(module is end for end in ends)}
    return {name: getattr(module, "original_module", module) for name, module in found.items()}


def _shapes(weights: Path) -> Iterator[tuple[str, list[int]]]:
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as opened:
        yield from [(name, opened.get_slice(name).get_shape()) for name in opened.keys()]  # noqa: SIM118 - no mapping
