"""What llama.cpp has to know of a model, family by family: its settings, and how it keeps the tensors.

Source: llama.cpp, src/models/{llama,qwen2,qwen3,gpt2}.cpp, which read these settings and compute with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from gguf.constants import MODEL_ARCH

from lorakit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Setting = Callable[[Any], Any]
_OTHER_WAYS = "write a merged model (--task merge) or the adapter alone (--format peft), which take every family"


@dataclass(frozen=True)
class Family:
    """How a family is written.

    Attributes:
        architecture: Its number in the gguf package.
        settings: From a method of ``gguf.GGUFWriter`` to the value it is given.
        computed: Settings of which llama.cpp computes these values only.
        rotary_scalings: Kinds of ``rope_type`` that can be written; empty where positions are learnt.
        paired_heads: From the beginning of a tensor's last name to the number of its heads, whose rows llama.cpp
            wants in another order.
        transposed: Last names of tensors that the checkpoint keeps as [in, out].
    """

    architecture: MODEL_ARCH
    settings: dict[str, Setting]
    computed: dict[str, tuple[object, ...]]
    rotary_scalings: frozenset[str] = frozenset()
    paired_heads: dict[str, Setting] = field(default_factory=dict)
    transposed: frozenset[str] = frozenset()

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


def _of(name: str) -> Setting:
    return lambda config: getattr(config, name)


def head_dimension(config: Any) -> int:
    """Return the numbers in one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


_ROTARY_SETTINGS: dict[str, Setting] = {
    "add_context_length": _of("max_position_embeddings"),
    "add_embedding_length": _of("hidden_size"),
    "add_block_count": _of("num_hidden_layers"),
    "add_feed_forward_length": _of("intermediate_size"),
    "add_head_count": _of("num_attention_heads"),
    "add_head_count_kv": _of("num_key_value_heads"),
    "add_layer_norm_rms_eps": _of("rms_norm_eps"),
    "add_key_length": head_dimension,
    "add_value_length": head_dimension,
    "add_rope_dimension_count": head_dimension,
    "add_rope_freq_base": lambda config: config.rope_parameters["rope_theta"],
}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        MODEL_ARCH.LLAMA,
        _ROTARY_SETTINGS,
        {"hidden_act": ("silu",)},
        rotary_scalings=frozenset({"default", "linear", "yarn", "llama3"}),
        paired_heads={"attn_q": _of("num_attention_heads"), "attn_k": _of("num_key_value_heads")},
    ),
    "mistral": Family(  # which llama.cpp computes as Llama, without a window
        MODEL_ARCH.LLAMA,
        _ROTARY_SETTINGS,
        {"hidden_act": ("silu",)},
        rotary_scalings=frozenset({"default", "linear", "yarn"}),
        paired_heads={"attn_q": _of("num_attention_heads"), "attn_k": _of("num_key_value_heads")},
    ),
    "qwen2": Family(
        MODEL_ARCH.QWEN2,
        _ROTARY_SETTINGS,
        {"hidden_act": ("silu",), "use_sliding_window": (False,)},
        rotary_scalings=frozenset({"default", "linear", "yarn"}),
    ),
    "qwen3": Family(
        MODEL_ARCH.QWEN3,
        _ROTARY_SETTINGS,
        {"hidden_act": ("silu",), "attention_bias": (False,), "use_sliding_window": (False,)},
        rotary_scalings=frozenset({"default", "linear", "yarn"}),
    ),
    "gpt2": Family(
        MODEL_ARCH.GPT2,
        {
            "add_context_length": _of("n_positions"),
            "add_embedding_length": _of("n_embd"),
            "add_block_count": _of("n_layer"),
            "add_feed_forward_length": lambda config: config.n_inner or 4 * config.n_embd,
            "add_head_count": _of("n_head"),
            "add_layer_norm_eps": _of("layer_norm_epsilon"),
        },
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        transposed=frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_down"}),
    ),
}
# The values of which llama.cpp computes no others; None where it computes them itself.
_USUAL_ROTATIONS = {
    "partial_rotary_factor": 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "truncate": True,
    "attention_factor": None,
    "mscale": None,
    "mscale_all_dim": None,
}


def family_of(config: PretrainedConfig) -> Family:
    """Find how a model is written.

    Raises:
        ModelError: Its family cannot be written, or it has a setting that llama.cpp does not compute.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(FAMILIES)
        raise ModelError(f"GGUF is written for the families {known}, not for {config.model_type}", _OTHER_WAYS)
    for name, values in family.computed.items():
        if getattr(config, name, values[0]) not in values:
            raise _not_computed(config, name, getattr(config, name))
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < config.max_position_embeddings:
        raise _not_computed(config, "sliding_window", window)
    if family.rotary_scalings:
        scaling = config.rope_parameters
        unusual = any(scaling.get(name) not in (None, usual) for name, usual in _USUAL_ROTATIONS.items())
        if unusual or scaling.get("rope_type", "default") not in family.rotary_scalings:
            raise _not_computed(config, "rope_parameters", scaling)
    return family


def read_as(kind: Any, config: Any) -> tuple[Any, Any]:
    """Return the class and the configuration by which transformers' GGUF loader reads a family.

    Args:
        kind: The model's own class.
        config: The model's own.
    """
    if config.model_type != "mistral":
        return kind, config
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {name: value for name, value in config.to_dict().items() if name not in {"model_type", "sliding_window"}}
    return LlamaForCausalLM, LlamaConfig(**settings)  # which computes the same where there is no window


def _not_computed(config: PretrainedConfig, name: str, value: object) -> ModelError:
    return ModelError(f"GGUF cannot be written for a {config.model_type} model with {name}: {value}", _OTHER_WAYS)
