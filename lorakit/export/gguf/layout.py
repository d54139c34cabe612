"""How llama.cpp keeps the tensors of a family, and what it computes of the family's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from gguf.constants import MODEL_ARCH

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Setting = Callable[[Any], Any]
_CENTRED = "norm.weight"  # what llama.cpp multiplies by as it stands, and the family by one more


@dataclass(frozen=True)
class Family:
    """How a family is written.

    Attributes:
        architecture: Its number in the gguf package.
        settings: From a method of ``gguf.GGUFWriter`` to the value it is given.
        computed: Settings of which llama.cpp computes these values only.
        derived: Settings that llama.cpp does not read from the file: what it takes them for.
        rotary_scalings: Kinds of ``rope_type`` that can be written; empty where positions are learnt.
        unusual_rotations: Settings of rotations that may have another value than the usual one, and what is to be
            said then; None where llama.cpp computes it.
        paired_heads: From the beginning of a tensor's last name to the number of its heads, whose rows llama.cpp
            wants in another order.
        transposed: Last names of tensors that the checkpoint keeps as [in, out].
        has_windows: Whether llama.cpp computes attention in windows.
        has_centred_norms: Whether norms multiply by one more than their weights.
        has_interleaved_experts: Whether experts are kept as [in, out], and gate and up turn by turn.
        transformers_reads: Whether the GGUF loader of transformers knows the family.
    """

    architecture: MODEL_ARCH
    settings: dict[str, Setting]
    computed: dict[str, tuple[object, ...]]
    derived: dict[str, Setting] = field(default_factory=dict)
    rotary_scalings: frozenset[str] = frozenset()
    unusual_rotations: dict[str, str | None] = field(default_factory=dict)
    paired_heads: dict[str, Setting] = field(default_factory=dict)
    transposed: frozenset[str] = frozenset()
    has_windows: bool = False
    has_centred_norms: bool = False
    has_interleaved_experts: bool = False
    transformers_reads: bool = True

    def as_computed(self, name: str, tensor: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
        """Return a tensor of the checkpoint as llama.cpp wants it.

        Args:
            name: llama.cpp's, such as ``blk.0.attn_q.weight``.
            tensor: [out, in], [out], or [in, out] where the family transposes.
            config: Of the model.
        """
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer.rpartition(".")[2] in self.transposed:
            tensor = tensor.T
        if self.has_centred_norms and name.endswith(_CENTRED):
            tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32)) + 1
        return self.rows_as_computed(name, tensor, config)

    def rows_as_computed(self, name: str, rows: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
        """Order what has one row for each output of the layer ``name``: its weight, its bias, its LoRA's B."""
        heads = self.paired_heads.get(name.split(".")[-2])
        return rows if heads is None else paired(rows, heads(config))


def paired(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Lay side by side the rows that are rotated together, which the checkpoint keeps half a head apart.

    Args:
        rows: [heads * head dimension, ...].
        heads: Of the layer.
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def setting(name: str) -> Setting:
    """Return what reads a setting of a configuration."""
    return lambda config: getattr(config, name)


def head_dimension(config: Any) -> int:
    """Return the numbers in one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rotations(config: Any) -> dict[str, Any]:
    """Return how positions turn queries and keys: in the layers without a window, where the others have their own."""
    found = getattr(config, "rope_parameters", None) or {}
    return dict(found.get("full_attention", found))


def every(layers: int) -> Setting:
    """Return what gives the kinds of the layers where each ``layers``-th has full attention and the rest a window."""
    return lambda config: [
        "sliding_attention" if (index + 1) % layers else "full_attention" for index in range(config.num_hidden_layers)
    ]
