"""Merged weights are the base's plus what each adapter adds, by the formula of the paper."""

import json
import math

import pytest
import torch
from conftest import FAMILIES, family_config, save_family
from random_adapters import plain_logits, plain_model, save_random_adapter
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lorakit.engine import DtypeChoice
from lorakit.export.weights.checkpoint import read_checkpoint
from lorakit.export.weights.merged import merged_tensors, unties_head
from lorakit.model_config import AdapterChoice, AdapterSet, load_model, load_tokenizer, locate_model


def opened(base, *choices):
    source = locate_model(str(base), "huggingface")
    bundle = load_model(source, load_tokenizer(source), DtypeChoice(torch.float32, "test"), torch.device("cpu"))
    adapters = AdapterSet(bundle)
    for choice in choices:
        adapters.load(choice)
    adapters.use({choice.name: choice.weight for choice in choices})
    return adapters.bundle.model


def by_hand(base, adapter):
    """W + scaling * B A, read from the files alone."""
    settings = json.loads((adapter / "adapter_config.json").read_text())
    scaling = settings["lora_alpha"] / (math.sqrt(settings["r"]) if settings["use_rslora"] else settings["r"])
    weights = load_file(adapter / "adapter_model.safetensors")
    changed = {}
    for name, a in weights.items():
        if name.endswith("lora_A.weight"):
            delta = scaling * weights[name.replace("lora_A", "lora_B")] @ a
            is_transposed = any(part in name for part in ("c_attn", "c_proj", "c_fc"))
            key = name.removeprefix("base_model.model.").replace(".lora_A", "")
            changed[key] = delta.T if is_transposed else delta
    files = load_file(base / "model.safetensors")
    return {name: value + changed.pop(name, 0) for name, value in files.items()}, changed


@pytest.mark.every(3)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [{}, {"use_rslora": True, "lora_alpha": 3}])
def test_every_tensor_is_that_of_the_formula_and_the_others_are_the_bases(family, lora, model_folder, tmp_path):
    base = model_folder(family)
    adapter = save_random_adapter(base, tmp_path / "a", **lora)
    wanted, left_over = by_hand(base, adapter)
    assert not left_over
    tensors = merged_tensors(opened(base, AdapterChoice("a", adapter)), read_checkpoint(base), None)
    assert set(tensors.shapes) == set(wanted)
    own = load_file(base / "model.safetensors")
    changes = 0
    for name, value in wanted.items():
        torch.testing.assert_close(tensors.read(name), value, rtol=1e-5, atol=1e-6)
        assert tensors.shapes[name] == tuple(value.shape)
        changes += not torch.equal(value, own[name])
        if torch.equal(value, own[name]):
            assert torch.equal(tensors.read(name), own[name])
    assert changes >= 8


def test_several_in_use_are_added_with_their_weights(model_folder, tmp_path):
    base = model_folder("llama")
    a = save_random_adapter(base, tmp_path / "a", 1)
    b = save_random_adapter(base, tmp_path / "b", 2, r=2, target_modules=["v_proj"])
    model = opened(base, AdapterChoice("a", a, 0.7), AdapterChoice("b", b, -0.5))
    tensors = merged_tensors(model, read_checkpoint(base), None)
    merged = plain_model(base)
    merged.load_state_dict({name: tensors.read(name) for name in tensors.shapes}, strict=False)
    wanted = plain_logits(base, [(a, 0.7), (b, -0.5)])
    torch.testing.assert_close(plain_logits_of(merged), wanted, rtol=1e-4, atol=1e-5)


def plain_logits_of(model):
    from random_adapters import logits_of

    return logits_of(model)


def test_dora_is_merged_as_peft_merges_it(model_folder, tmp_path):
    from peft import PeftModel

    base = model_folder("llama")
    adapter = save_random_adapter(base, tmp_path / "a", use_dora=True)
    wanted = PeftModel.from_pretrained(plain_model(base), str(adapter)).merge_and_unload().state_dict()
    tensors = merged_tensors(opened(base, AdapterChoice("a", adapter)), read_checkpoint(base), None)
    for name in tensors.shapes:
        torch.testing.assert_close(tensors.read(name), wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-10)])
def test_the_sum_is_computed_in_float32_and_rounded_once(dtype, rounding, model_folder, tmp_path):
    base = model_folder("qwen3")
    adapter = save_random_adapter(base, tmp_path / "a", size=0.02)
    wanted, _ = by_hand(base, adapter)
    tensors = merged_tensors(opened(base, AdapterChoice("a", adapter)), read_checkpoint(base), dtype)
    for name, value in wanted.items():
        found = tensors.read(name)
        assert found.dtype == dtype
        assert (
            torch.equal(found, value.to(dtype))
            or ((found.float() - value).abs() <= rounding * value.abs() + 1e-7).all()
        )


def test_gpt2_files_without_the_beginning_of_names_are_found(tmp_path):
    base = save_family("gpt2", tmp_path / "base")
    from safetensors.torch import save_file

    files = load_file(base / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): value for name, value in files.items()},
        base / "model.safetensors",
        metadata={"format": "pt"},
    )
    adapter = save_random_adapter(base, tmp_path / "a")
    tensors = merged_tensors(opened(base, AdapterChoice("a", adapter)), read_checkpoint(base), None)
    changed = [name for name in tensors.shapes if not torch.equal(tensors.read(name), read_checkpoint(base).read(name))]
    assert len(changed) == 8
    assert all(name.startswith("h.") for name in changed)


def tied_model(folder):
    config = family_config("qwen3", 700)
    config.tie_word_embeddings = True
    save_family("qwen3", folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_tied_embeddings_stay_tied_where_the_adapter_leaves_them_alone(tmp_path):
    base = tied_model(tmp_path / "base")
    adapter = save_random_adapter(base, tmp_path / "a")
    model = opened(base, AdapterChoice("a", adapter))
    assert not unties_head(model)
    assert "lm_head.weight" not in merged_tensors(model, read_checkpoint(base), None).shapes


def test_a_head_with_an_adapter_is_untied_and_the_embeddings_stay(tmp_path):
    base = tied_model(tmp_path / "base")
    adapter = save_random_adapter(base, tmp_path / "a", target_modules=["lm_head", "q_proj"])
    model = opened(base, AdapterChoice("a", adapter))
    assert unties_head(model)
    tensors, own = merged_tensors(model, read_checkpoint(base), None), read_checkpoint(base)
    embeddings = "model.embed_tokens.weight"
    assert torch.equal(tensors.read(embeddings), own.read(embeddings))
    weights = load_file(adapter / "adapter_model.safetensors")
    a, b = (weights[f"base_model.model.lm_head.lora_{matrix}.weight"] for matrix in "AB")
    torch.testing.assert_close(tensors.read("lm_head.weight"), own.read(embeddings) + 2 * b @ a, rtol=1e-5, atol=1e-6)
