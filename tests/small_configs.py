"""Small configurations of every causal and image-text class that the installed transformers brings."""

from __future__ import annotations

import copy
from typing import Any

VOCABULARY = 320
HIDDEN = 64
# By the name of a setting, where the class has it; widths of towers equal those of the language model, so that all fit.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "text_vocab_size"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "word_embed_proj_dim"), 64
    ),
    **dict.fromkeys(("out_hidden_size", "projection_dim", "projector_hidden_size", "text_hidden_size"), 64),
    **dict.fromkeys(("encoder_hidden_size", "vision_output_dim", "output_dim", "attention_hidden_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "mlp_dim", "d_ff"), 96),
    **dict.fromkeys(("n_inner", "ffn_hidden_size", "dense_intermediate_size", "dim_ff", "dff"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "intermediate_size_mlp"), 32),
    **dict.fromkeys(("expert_ffn_hidden_size",), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 4),
    **dict.fromkeys(("depth",), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "kv_channels", "attention_head_dim"), 16),
    **dict.fromkeys(("global_head_dim", "swa_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim",), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "top_k", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx", "max_seq_len"), 256),
    **dict.fromkeys(("index_head_dim",), 16),
    **dict.fromkeys(("index_n_heads",), 32),  # with few of them most scores are nought, and what is chosen is chance
    **dict.fromkeys(("index_topk",), 4),
    **dict.fromkeys(("vocab_size_per_layer_input",), VOCABULARY),
    **dict.fromkeys(("hidden_size_per_layer_input",), 16),
    "image_size": 28,
    "patch_size": 14,
    "query_pre_attn_scalar": 16,
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "mm_tokens_per_image": 4,
}
_NOUGHT = ("dropout", "_pdrop", "jitter", "layerdrop", "drop_rate")
_TOKENS = ("token_id", "token_index", "_token_ids")


def small_config(model_type: str, **chosen: Any) -> Any:
    """Return a small configuration of a type, with some settings chosen."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _shrunk(CONFIG_MAPPING[model_type], copy.deepcopy({**SPECIAL.get(model_type, {}), **chosen}))


def _shrunk(kind: Any, chosen: dict[str, Any]) -> Any:
    usual = kind()
    settings: dict[str, Any] = {}
    for name, value in vars(usual).items():
        own = kind.attribute_map.get(name, name)
        size = SIZES.get(name, SIZES.get(own))
        if size is not None and isinstance(value, int) and not isinstance(value, bool) and value > size:
            settings[name] = size
        elif isinstance(value, float) and any(part in name for part in _NOUGHT):
            settings[name] = 0.0
    for name in kind.sub_configs:
        part = getattr(usual, name, None)
        if part is not None and hasattr(part, "sub_configs"):
            own = copy.deepcopy(SPECIAL.get(type(part).model_type, {}))  # configurations change what they are given
            inner = _shrunk(type(part), {**own, **chosen.get(name, {})})
            settings[name] = inner
    settings |= {name: value for name, value in chosen.items() if name not in kind.sub_configs}
    return _with_tokens(kind(**settings))


def _with_tokens(config: Any) -> Any:
    """Let tokens that stand for something lie at the end of the vocabulary."""
    last = VOCABULARY - 1
    for name, value in list(vars(config).items()):
        if name.endswith(_TOKENS) and isinstance(value, int) and value >= VOCABULARY:
            setattr(config, name, last)
            last -= 1
        elif name.endswith(_TOKENS) and isinstance(value, list) and value and max(value) >= VOCABULARY:
            setattr(config, name, [last - place for place in range(len(value))])
            last -= len(value)
    return config


# Where a class wants more than small numbers.
_ATTENTION_EVERY_SECOND = ["linear_attention", "full_attention"] * 2
_MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
_PLAIN_ROTATIONS = {"rope_type": "default", "rope_theta": 10_000.0}
_HALF_MROPE = {**_MROPE, "mrope_section": [1, 1, 2]}  # of heads of which half are turned
# Latent attention, whose heads for positions have a size of their own, which head_dim repeats.
_LATENT = (
    *("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_k25"),
    *("longcat_flash", "minicpm3", "mistral_large4", "youtu", "kimi_linear", "bailing_hybrid"),
)
_WITH_THREE_PLACES = (
    *("glm46v_text", "glm4v_text", "glm_ocr_text", "glmga_text", "paddleocr_vl_text"),
    *("qwen2_5_omni_text", "qwen2_5_vl_text", "qwen2_vl_text"),
)
SPECIAL: dict[str, dict[str, Any]] = {
    **{name: {"num_key_value_heads": 4} for name in ("dots3_note", "dots3_note_text", "glm5_next")},
    **{name: {"head_dim": 16} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    **{name: {"head_dim": 8, "num_key_value_heads": 4} for name in _LATENT},
    **{name: {"rope_parameters": _MROPE} for name in _WITH_THREE_PLACES},
    "glm4v_moe_text": {"rope_parameters": _HALF_MROPE},
    "cosmos3_edge_text": {"rope_parameters": _MROPE},
    "deepseek_v2": {"head_dim": 8, "num_key_value_heads": 4, "num_experts_per_tok": 2, "n_routed_experts": 4},
    "dots1": {
        **{"head_dim": 16, "num_key_value_heads": 4, "n_routed_experts": 4, "n_shared_experts": 1},
        **{"num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1},
    },
    "ernie4_5_vl_moe_text": {
        "rope_parameters": {**_PLAIN_ROTATIONS, "mrope_section": [3, 3, 2]},
        **{"moe_intermediate_size": [32, 32], "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    },
    "chameleon": {"vocabulary_map": {"<image>": 300}},
    "emu3": {"vocabulary_map": {"<|extra_200|>": 300, "<image>": 301}},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": dict.fromkeys(("sliding_attention", "full_attention"), _PLAIN_ROTATIONS),
    },
    "deepseek_ocr2_text": {
        **{"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "num_experts_per_tok": 2},
        **{"n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 32},
    },
    "dots3_note": {
        "vision_config": {"per_layer_config": {}, "adapter_in_dim": 64, "adapter_out_dim": 64},
        "audio_config": {"adapter_input_size": 64, "adapter_out_dim": 64},
    },
    "dots3_note_text": {"per_layer_config": {}, "num_key_value_heads": 4, "qk_nope_head_dim": 8},
    "glm5_next_text": {"num_key_value_heads": 4, "index_kpool": 2},
    "granite4_vision": {"deepstack_layer_map": [[1, 1], [3, 2]], "downsample_rate": "1/2"},
    "hunyuan_vl_text": {"head_dim": 16, "rope_parameters": {**_PLAIN_ROTATIONS, "mrope_section": [2, 2, 2, 2]}},
    "molmo2_adapter": {"vision_feature_layer": [3, 2]},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "step3p5": {"sliding_window": 8},
    "xlm": {"emb_dim": 64, "n_words": VOCABULARY},
    "zamba": {
        **{"layers_block_type": ["linear_attention", "hybrid"] * 2, "attention_head_dim": 32},
        "attention_hidden_size": 128,
    },
    "kimi_linear": {"n_routed_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "num_key_value_heads": 4},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        **{"index_topk_blocks": 2, "index_block_size": 4},
    },
    "mistral_large4_text": {"head_dim": 8, "num_key_value_heads": 4, "rope_parameters": _PLAIN_ROTATIONS},
    "mistral4": {
        **{"head_dim": 8, "num_key_value_heads": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8},
        "rope_parameters": {
            **_PLAIN_ROTATIONS,
            **{"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 8},
        },
    },
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "qwen4_exp_text": {
        **{"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8},
        **{"indexer_compress_ratio": 2, "ngram_vocab_size_base": 320, "split_ngram_parts": 2},
        **{"layer_types": ["linear_attention", "indexed_attention"] * 2, "hc_lowrank": 16, "ple_embed_dim": 16},
    },
    "granitemoehybrid": {"layer_types": _ATTENTION_EVERY_SECOND},
    "bailing_hybrid": {
        **{"layer_types": ["linear_attention", "full_attention"] * 2, "head_dim": 8, "num_key_value_heads": 4},
        **{"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "num_local_experts": 4},
    },
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "bamba": {"attn_layer_indices": [1, 3]},
    "bert": {"is_decoder": False},
    "codegen": {"rotary_dim": 8},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gptj": {"rotary_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "llama4_text": {"layer_types": ["chunked_attention", "full_attention"] * 2, "no_rope_layers": [1, 0, 1, 0]},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "mistral": {"sliding_window": 8},
    "mllama_text_model": {"cross_attention_layers": [1]},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 2},
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [32, 32]},
    "zamba2": {
        **{"layers_block_type": ["mamba", "hybrid"] * 2, "attention_head_dim": 32, "n_mamba_heads": 8},
        "attention_hidden_size": 128,
    },
}
