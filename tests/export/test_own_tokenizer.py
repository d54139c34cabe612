"""Adapters made elsewhere that bring tokens of their own: merged and exported with the tokenizer that they bring."""

import json

import pytest
import torch
from conftest import family_config, family_tokenizer
from export_models import logits, metadata
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorakit.cli import main
from lorakit.config import Config
from lorakit.inference import open_adapters

TOKENS = ["<doc>", "</doc>"]
TEXT = "<doc> How far? </doc> Nine miles."
SPARE = 64  # rows that many models have beyond their tokenizer
# How plain PEFT comes to save rows for tokens beyond the base's embedding.
GROWN = {
    "modules_to_save": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "whole embedding": {},
    "trainable_token_indices": {"trainable_token_indices": {"embed_tokens": [-2, -1], "lm_head": [-2, -1]}},
    "rows of the embedding alone": {"trainable_token_indices": {"embed_tokens": [-2, -1]}},
}


def save_base(folder, spare, seed=5, is_tied=False):
    tokenizer = family_tokenizer("qwen3")
    torch.manual_seed(seed)
    config = family_config("qwen3", len(tokenizer) + spare)
    config.tie_word_embeddings = is_tied
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def made_elsewhere(base, folder, spare, padded_to=None, **lora):
    """An adapter as plain transformers and PEFT make one, every number of it random."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(TOKENS)
    model = AutoModelForCausalLM.from_pretrained(base)
    if not spare:
        torch.manual_seed(2)
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=padded_to)
    if indices := lora.get("trainable_token_indices"):
        lora["trainable_token_indices"] = {
            name: [len(tokenizer) + place for place in places] for name, places in indices.items()
        }
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=2, **lora))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain(base, adapter, padded_to=None):
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if len(tokenizer) > len(model.get_input_embeddings().weight):
        torch.manual_seed(2)
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=padded_to)
    return tokenizer, PeftModel.from_pretrained(model, str(adapter)).eval()


def run(task, base, adapter, rows, folder, *extra):
    (folder / "empty.yaml").write_text("")
    arguments = ["--task", task, "--config", str(folder / "empty.yaml"), "--model_name_or_path", str(base)]
    arguments += ["--lora_model_path", str(adapter), "--export_dir", str(folder / "written"), "--max_new_tokens=8"]
    return main([*arguments, f"--set=validation_file={rows}", *extra])


CASES = [(SPARE, {}), *((0, lora) for lora in GROWN.values())]


@pytest.fixture(params=CASES, ids=["within the base's rows", *GROWN])
def case(request, tmp_path):
    spare, lora = request.param
    base = save_base(tmp_path / "base", spare)
    return base, made_elsewhere(base, tmp_path / "adapter", spare, **lora)


@pytest.mark.every(3)
def test_the_merged_model_has_that_tokenizer_and_computes_what_plain_peft_does_with_it(
    case, tmp_path, write_rows, capsys
):
    base, adapter = case
    rows = write_rows([{"text": "<doc> How far? </doc>", "target": "Nine miles."}])
    assert run("merge", base, adapter, rows, tmp_path) == 0
    merged = tmp_path / "written"
    assert json.loads((merged / "proof.json").read_text())["proven"]
    said = "no rows of the output layer for the tokens that it adds" in capsys.readouterr().err
    tokenizer, model = plain(base, adapter)
    own = AutoTokenizer.from_pretrained(merged)
    assert own.get_vocab() == tokenizer.get_vocab()
    assert [own(token)["input_ids"] for token in TOKENS] == [[tokenizer.convert_tokens_to_ids(t)] for t in TOKENS]
    ids = own(TEXT)["input_ids"]
    assert ids == tokenizer(TEXT)["input_ids"]
    whole = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    found, expected = logits(whole, ids), logits(model, ids)
    brought = str(list(load_file(adapter / "adapter_model.safetensors")))
    assert said == (len(own) == len(whole.lm_head.weight) and "lm_head" not in brought)
    if said:  # rows that plain PEFT leaves to chance
        mean = whole.lm_head.weight[:-2].mean(0, keepdim=True)
        torch.testing.assert_close(whole.lm_head.weight[-2:], mean.expand(2, -1))
        found, expected = found[..., :-2], expected[..., :-2]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.every(3)
def test_as_gguf_it_has_these_tokens_too(case, tmp_path, write_rows, capsys):
    base, adapter = case
    rows = write_rows([{"text": "<doc> How far? </doc>", "target": "Nine miles."}])
    code = run("export", base, adapter, rows, tmp_path, "--format=gguf", "--set=export_dtype=f32")
    [file] = (tmp_path / "written").glob("model-*.gguf")
    tokens = metadata(file)["tokenizer.ggml.tokens"]
    tokenizer, _ = plain(base, adapter)
    assert [tokens[tokenizer.convert_tokens_to_ids(token)] for token in TOKENS] == TOKENS
    assert json.loads((file.parent / "proof.json").read_text())["proven"]
    assert code == 0, capsys.readouterr().err


TIED = {
    "one layer for both ends": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "rows for both ends": {"trainable_token_indices": {"embed_tokens": [-2, -1]}},
}


@pytest.mark.parametrize("kind", TIED)
def test_ends_that_are_tied_stay_tied(kind, tmp_path, write_rows):
    base = save_base(tmp_path / "base", 0, is_tied=True)
    adapter = made_elsewhere(base, tmp_path / "adapter", 0, **TIED[kind])
    assert run("merge", base, adapter, write_rows([{"text": "<doc>q", "target": "a"}]), tmp_path) == 0
    assert json.loads((tmp_path / "written" / "proof.json").read_text())["proven"]
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "written", dtype=torch.float32).eval()
    assert whole.config.tie_word_embeddings
    tokenizer, model = plain(base, adapter)
    ids = tokenizer(TEXT)["input_ids"]
    torch.testing.assert_close(logits(whole, ids), logits(model, ids), rtol=1e-4, atol=1e-4)


def test_rows_that_differ_at_ends_that_are_tied_are_refused(tmp_path, write_rows, capsys):
    base = save_base(tmp_path / "base", 0, is_tied=True)
    adapter = made_elsewhere(base, tmp_path / "adapter", 0, **TIED["rows for both ends"])
    weights = load_file(adapter / "adapter_model.safetensors")
    [name] = [name for name in weights if "lm_head.token_adapter.trainable" in name]
    save_file(weights | {name: weights[name] + 1}, adapter / "adapter_model.safetensors")
    assert run("merge", base, adapter, write_rows([{"text": "q", "target": "a"}]), tmp_path) == 2
    assert "and the model ties them" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["modules_to_save", "trainable_token_indices"])
def test_an_embedding_of_another_base_is_refused(kind, tmp_path, write_rows, capsys):
    adapter = made_elsewhere(save_base(tmp_path / "base", 0), tmp_path / "adapter", 0, **GROWN[kind])
    other = save_base(tmp_path / "other", 0, seed=6)
    assert run("merge", other, adapter, write_rows([{"text": "q", "target": "a"}]), tmp_path) == 2
    assert "is not what the base has" in capsys.readouterr().err
    assert not (tmp_path / "written").exists()


def test_rows_beyond_the_tokens_are_kept(tmp_path, write_rows):
    base = save_base(tmp_path / "base", 0)
    adapter = made_elsewhere(base, tmp_path / "adapter", 0, padded_to=64, **GROWN["modules_to_save"])
    assert run("merge", base, adapter, write_rows([{"text": "<doc>q", "target": "a"}]), tmp_path) == 0
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "written", dtype=torch.float32).eval()
    assert len(whole.get_input_embeddings().weight) % 64 == 0
    tokenizer, model = plain(base, adapter, padded_to=64)
    ids = tokenizer(TEXT)["input_ids"]
    torch.testing.assert_close(logits(whole, ids), logits(model, ids), rtol=1e-4, atol=1e-4)


def test_the_base_without_the_adapter_stays_what_it_is(tmp_path):
    base = save_base(tmp_path / "base", 0)
    adapter = made_elsewhere(base, tmp_path / "adapter", 0)
    config = Config(model_name_or_path=str(base), lora_model_path=[str(adapter)], torch_dtype="float32")
    assistant = open_adapters(config).assistant
    ids = (5, 6, 7, 8)
    with assistant.without_adapter():
        found = logits(assistant.bundle.model, ids)[..., : len(family_tokenizer("qwen3"))]
    torch.testing.assert_close(found, logits(AutoModelForCausalLM.from_pretrained(base), ids), rtol=1e-5, atol=1e-5)
