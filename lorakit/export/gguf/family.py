"""What llama.cpp has to know of a model, family by family.

Source: llama.cpp, src/models/*.cpp of the families' names there, which read these settings and compute with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gguf.constants import MODEL_ARCH

from lorakit.errors import ModelError
from lorakit.export.gguf.layout import Family, every, head_dimension, rotations
from lorakit.export.gguf.layout import setting as _of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_OTHER_WAYS = "write a merged model (--task merge) or the adapter alone (--format peft), which take every family"

# Seen with gpt-oss's own rotations and a model of 4 random layers: 0.05 % after 100 tokens, 0.12 % after 700.
_ROUNDED_RAMP = (
    "llama.cpp rounds the bounds between which YaRN slows rotations, which this model does not: "
    "its logits there will be off by about a thousandth of their size"
)
_ROTARY_SETTINGS = {
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
    "add_rope_freq_base": lambda config: rotations(config)["rope_theta"],
}
_WINDOW = {"add_sliding_window": _of("sliding_window")}
_SCALINGS = frozenset({"default", "linear", "yarn"})
_HEADS = {"attn_q": _of("num_attention_heads"), "attn_k": _of("num_key_value_heads")}
_NO_WINDOW: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "use_sliding_window": (False,),
}
_GEMMA: dict[str, tuple[object, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "use_bidirectional_attention": (False, None),
}


def _gemma_scale(layers_of_largest: int) -> Any:
    """The largest of a generation divides queries by the share of a head in the model's width, the others by a head."""
    return lambda config: (
        config.hidden_size // config.num_attention_heads
        if config.num_hidden_layers == layers_of_largest
        else head_dimension(config)
    )


FAMILIES: dict[str, Family] = {
    "llama": Family(
        MODEL_ARCH.LLAMA,
        _ROTARY_SETTINGS,
        {"hidden_act": ("silu",)},
        rotary_scalings=_SCALINGS | {"llama3"},
        paired_heads=_HEADS,
    ),
    "mistral": Family(  # which llama.cpp computes as Llama, without a window
        MODEL_ARCH.LLAMA,
        _ROTARY_SETTINGS,
        {"hidden_act": ("silu",)},
        rotary_scalings=_SCALINGS,
        paired_heads=_HEADS,
    ),
    "qwen2": Family(
        MODEL_ARCH.QWEN2,
        _ROTARY_SETTINGS,
        {"hidden_act": ("silu",), "use_sliding_window": (False,)},
        rotary_scalings=_SCALINGS,
    ),
    "qwen3": Family(
        MODEL_ARCH.QWEN3,
        _ROTARY_SETTINGS,
        _NO_WINDOW,
        rotary_scalings=_SCALINGS,
    ),
    "qwen3_moe": Family(
        MODEL_ARCH.QWEN3MOE,
        _ROTARY_SETTINGS
        | {
            "add_expert_count": _of("num_experts"),
            "add_expert_used_count": _of("num_experts_per_tok"),
            "add_expert_feed_forward_length": _of("moe_intermediate_size"),
        },
        _NO_WINDOW | {"norm_topk_prob": (True,), "decoder_sparse_step": (1,), "mlp_only_layers": ([], None)},
        rotary_scalings=_SCALINGS,
    ),
    "smollm3": Family(
        MODEL_ARCH.SMOLLM3,
        _ROTARY_SETTINGS,
        _NO_WINDOW | {"mlp_bias": (False,)},
        derived={"no_rope_layers": lambda config: [int((i + 1) % 4 != 0) for i in range(config.num_hidden_layers)]},
        rotary_scalings=_SCALINGS,
        paired_heads=_HEADS,
        transformers_reads=False,
    ),
    "phi3": Family(
        MODEL_ARCH.PHI3,
        _ROTARY_SETTINGS
        | {
            "add_rope_dimension_count": lambda config: int(
                head_dimension(config) * (rotations(config).get("partial_rotary_factor") or 1)
            ),
            "add_rope_scaling_orig_ctx_len": _of("original_max_position_embeddings"),
        },
        {"hidden_act": ("silu",)},
        rotary_scalings=frozenset({"default"}),
        unusual_rotations={"partial_rotary_factor": None},
    ),
    "gemma2": Family(
        MODEL_ARCH.GEMMA2,
        _ROTARY_SETTINGS
        | _WINDOW
        | {
            "add_attn_logit_softcapping": _of("attn_logit_softcapping"),
            "add_final_logit_softcapping": _of("final_logit_softcapping"),
        },
        _GEMMA | {"tie_word_embeddings": (True,)},
        derived={
            "layer_types": every(2),
            "query_pre_attn_scalar": _gemma_scale(46),
            # llama.cpp bends logits in any case, and takes its own bounds where there are none in the file
            "attn_logit_softcapping": lambda config: config.attn_logit_softcapping or "any number",
            "final_logit_softcapping": lambda config: config.final_logit_softcapping or "any number",
        },
        rotary_scalings=frozenset({"default", "linear"}),
        has_windows=True,
        has_centred_norms=True,
    ),
    "gemma3_text": Family(
        MODEL_ARCH.GEMMA3,
        _ROTARY_SETTINGS | _WINDOW,
        _GEMMA | {"attn_logit_softcapping": (None,), "final_logit_softcapping": (None,)},
        derived={
            "layer_types": every(6),
            "query_pre_attn_scalar": _gemma_scale(62),
            "rope_parameters": lambda config: (
                config.rope_parameters
                | {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}  # in the layers with windows
            ),
        },
        rotary_scalings=frozenset({"default", "linear"}),
        has_windows=True,
        has_centred_norms=True,
    ),
    "gpt_oss": Family(
        MODEL_ARCH.GPT_OSS,
        _ROTARY_SETTINGS
        | _WINDOW
        | {
            "add_expert_count": _of("num_local_experts"),
            "add_expert_used_count": _of("num_experts_per_tok"),
            "add_expert_feed_forward_length": _of("intermediate_size"),
        },
        {"hidden_act": ("silu",), "attention_bias": (True,), "swiglu_alpha": (1.702,), "swiglu_limit": (7.0,)},
        derived={"layer_types": every(2)},
        rotary_scalings=_SCALINGS,
        has_windows=True,
        unusual_rotations={"truncate": _ROUNDED_RAMP},
        has_interleaved_experts=True,
        transformers_reads=False,
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
    for name, taken_for in family.derived.items():
        if getattr(config, name) != taken_for(config):
            raise _not_computed(config, name, getattr(config, name))
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < config.max_position_embeddings and not family.has_windows:
        raise _not_computed(config, "sliding_window", window)
    if family.rotary_scalings:
        scaling, own = rotations(config), family.unusual_rotations
        usual = {name: value for name, value in _USUAL_ROTATIONS.items() if name not in own}
        unusual = any(scaling.get(name) not in (None, value) for name, value in usual.items())
        if unusual or scaling.get("rope_type", "default") not in family.rotary_scalings:
            raise _not_computed(config, "rope_parameters", scaling)
    return family


def departures(config: PretrainedConfig) -> list[str]:
    """Return what has to be said of a model that can be written: where llama.cpp computes it a little otherwise."""
    scaling, own = rotations(config), family_of(config).unusual_rotations
    return [
        words for name, words in own.items() if words and scaling.get(name) not in {None, _USUAL_ROTATIONS.get(name)}
    ]


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
