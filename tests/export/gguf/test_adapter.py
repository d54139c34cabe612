"""A LoRA GGUF file put on the base's GGUF file is PEFT's merged model."""

import pytest
import torch
from export_models import adapted, metadata, random_model, tensors_in, write

from lorakit.errors import AdapterError, ModelError
from lorakit.export.gguf.adapter import adapter_weights, write_adapter_gguf

PATTERNS = {"rank_pattern": {"up_proj|c_fc": 2}, "alpha_pattern": {"q_proj|c_attn": 3}}


def applied(base, adapter):
    """What llama.cpp computes with: W + alpha / rank * B A."""
    alpha = metadata(adapter)["adapter.lora.alpha"]
    matrices, weights = tensors_in(adapter), tensors_in(base)
    for name in [name.removesuffix(".lora_a") for name in matrices if name.endswith(".lora_a")]:
        a, b = matrices[f"{name}.lora_a"], matrices[f"{name}.lora_b"]
        weights[name] = weights[name] + alpha / b.shape[1] * b @ a
    return weights


@pytest.mark.every(3)
@pytest.mark.parametrize("lora", [{}, {"use_rslora": True}, PATTERNS, {"lora_alpha": 1}], ids=str)
@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_base_and_adapter_together_are_the_merged_model(family, lora, tmp_path):
    model, tokenizer = random_model(family)
    base = write(model, tokenizer, tmp_path / "base.gguf")
    before = tensors_in(base)
    peft_model = adapted(model, fan_in_fan_out=family == "gpt2", **lora)
    write_adapter_gguf(tmp_path / "a.gguf", model.config, adapter_weights(peft_model), "tiny")
    merged = tensors_in(write(peft_model.merge_and_unload(), tokenizer, tmp_path / "merged.gguf"))
    found = applied(base, tmp_path / "a.gguf")
    changed = [name for name in before if not torch.equal(before[name], merged[name])]
    assert len(changed) == {"qwen3": 14, "llama": 14, "gpt2": 8}[family]
    for name, wanted in merged.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-5, msg=name)


def test_a_plain_adapter_is_written_as_it_is(tmp_path):
    model, _ = random_model("qwen3")
    weights = adapter_weights(adapted(model))
    write_adapter_gguf(tmp_path / "a.gguf", model.config, weights, "tiny")
    item = weights["model.layers.1.mlp.down_proj"]
    found = tensors_in(tmp_path / "a.gguf")
    assert torch.equal(found["blk.1.ffn_down.weight.lora_a"], item.a)
    assert torch.equal(found["blk.1.ffn_down.weight.lora_b"], item.b)
    known = metadata(tmp_path / "a.gguf")
    wanted = {"general.type": "adapter", "general.architecture": "qwen3", "adapter.type": "lora"}
    assert {name: known[name] for name in wanted} == wanted
    assert known["adapter.lora.alpha"] == 8


def test_an_output_projection_of_its_own_can_be_adapted_and_a_tied_one_not(tmp_path):
    model, _ = random_model("llama", tie_word_embeddings=False)
    weights = adapter_weights(adapted(model, target_modules=["lm_head"]))
    write_adapter_gguf(tmp_path / "a.gguf", model.config, weights, "tiny")
    assert set(tensors_in(tmp_path / "a.gguf")) == {"output.weight.lora_a", "output.weight.lora_b"}
    model.config.tie_word_embeddings = True
    refuse(AdapterError, "is one with the embedding", tmp_path / "b.gguf", model.config, weights)


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "biases on its LoRA matrices"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["embed_tokens"]}, "LoRA on the embedding"),
        ({"bias": "all", "target_modules": ["q_proj"]}, "trained biases"),
        ({"trainable_token_indices": [1, 2]}, "trained tokens"),
    ],
)
def test_what_is_more_than_lora_is_refused(lora, reason):
    model, _ = random_model("llama", tie_word_embeddings=False)
    with pytest.raises(AdapterError) as caught:
        adapter_weights(adapted(model, **lora))
    assert reason in caught.value.message
    assert caught.value.hint


def test_layers_and_families_that_llama_cpp_does_not_have_are_refused(tmp_path):
    model, _ = random_model("llama")
    weights = adapter_weights(adapted(model))
    strange = {"model.extra": next(iter(weights.values()))}
    refuse(AdapterError, "model.extra", tmp_path / "a.gguf", model.config, strange)
    refuse(AdapterError, "no LoRA matrices", tmp_path / "a.gguf", model.config, {})
    refuse(ModelError, "not for opt", tmp_path / "a.gguf", random_model("opt")[0].config, weights)


def refuse(kind, reason, file, config, weights):
    with pytest.raises(kind) as caught:
        write_adapter_gguf(file, config, weights, "tiny")
    assert reason in caught.value.message
    assert caught.value.hint
    assert not file.exists()
