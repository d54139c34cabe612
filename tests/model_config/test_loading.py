import json
import shutil

import pytest
import torch
from conftest import FAMILIES

from lorakit.config import Config
from lorakit.engine import DtypeChoice
from lorakit.engine.backends import number_format
from lorakit.errors import ModelError
from lorakit.model_config import choose_format, load_model, load_tokenizer, locate_model, read_model_type

CPU = torch.device("cpu")


@pytest.fixture
def copied(model_folder, tmp_path):
    return shutil.copytree(model_folder("llama"), tmp_path / "copied")


def load(folder, dtype=torch.float32):
    source = locate_model(str(folder), "huggingface")
    return load_model(source, load_tokenizer(source), DtypeChoice(dtype, "test"), CPU)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_loads_in_the_chosen_format(model_folder, family, dtype):
    bundle = load(model_folder(family), dtype)
    assert bundle.family == family
    assert {parameter.dtype for parameter in bundle.model.parameters()} == {dtype}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_with_its_matrices_in_float16(model_folder, family):
    source = locate_model(str(model_folder(family)), "huggingface")
    bundle = load_model(source, load_tokenizer(source), DtypeChoice(torch.float32, "test", is_half=True), CPU)
    wanted, found = load(model_folder(family)).model.state_dict(), bundle.model.state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.float16, torch.float32}
    assert all(torch.equal(found[name].float(), tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("settings", "is_half"),
    [
        ({}, True),
        ({"cpu_kernels": False}, False),
        ({"load_in_8bit": True}, False),
        ({"load_in_4bit": True}, False),
        ({"trainer_args": {"fsdp": True}}, False),
    ],
    ids=str,
)
def test_float16_is_for_whole_weights_in_known_families(model_folder, copied, monkeypatch, settings, is_half):
    monkeypatch.setattr(number_format, "_bfloat16_speedup", lambda: 0.5)
    monkeypatch.setattr(number_format, "half_fault", lambda: None)
    monkeypatch.setattr(number_format, "_half_speedup", lambda: 2.0)
    config, source = Config(**settings), locate_model(str(copied), "huggingface")
    assert choose_format(config, source, CPU).is_half is is_half
    assert choose_format(config, source, CPU, earlier="float16").is_half is is_half
    assert not choose_format(config, source, CPU, may_be_half=False).is_half
    assert choose_format(config, source, CPU, earlier="float32").reason == "as in the run that is resumed"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not choose_format(config, source, CPU).is_half
    monkeypatch.delenv("WORLD_SIZE")
    setting = json.loads((copied / "config.json").read_text()) | {"model_type": "gemma"}
    (copied / "config.json").write_text(json.dumps(setting))
    assert not choose_format(config, source, CPU).is_half


def test_a_format_that_cannot_be_kept_is_not_said_to_be(copied, monkeypatch):
    monkeypatch.setattr(number_format, "_bfloat16_speedup", lambda: 0.5)
    monkeypatch.setattr(number_format, "half_fault", lambda: "no such instructions")
    found = choose_format(Config(), locate_model(str(copied), "huggingface"), CPU, earlier="float16")
    assert found.name == "float32"
    assert "resumed" not in found.reason
    assert "float16 is replaced with float32: no such instructions" in found.warning


@pytest.mark.parametrize(("family", "limit"), [("llama", 2048), ("gpt2", 1024), ("opt", 1024)])
def test_type_and_limit_are_known_without_weights(model_folder, family, limit):
    assert read_model_type(locate_model(str(model_folder(family)), "huggingface")) == (family, limit)


def test_a_damaged_config_is_named(copied):
    (copied / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"its config.json is damaged"):
        read_model_type(locate_model(str(copied), "huggingface"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("dtype", "float1"), ("tie_word_embeddings", "x"), ("layer_types", ["x"]), ("rope_parameters", "x")],
)
def test_a_field_that_its_class_refuses_is_no_fault_of_the_tokenizer(copied, name, value):
    settings = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(settings | {name: value}))
    with pytest.raises(ModelError, match=r"its config\.json cannot be used \(.*[^:]\)") as caught:
        load_tokenizer(locate_model(str(copied), "huggingface"))
    assert "config.json" in caught.value.hint


def test_a_truncated_weight_file_is_named(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        load(copied)


def test_missing_weight_files_are_named(copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        load(copied)


def test_missing_tensors_are_never_filled_with_random_numbers(copied):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copied / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors, model.layers.1.mlp.up_proj.weight among them"):
        load(copied)


def test_missing_tokenizer_files_are_named(copied):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copied / name).unlink()
    with pytest.raises(ModelError, match="its tokenizer"):
        load_tokenizer(locate_model(str(copied), "huggingface"))


def test_a_tokenizer_of_another_model_is_refused(copied):
    tokenizer = load_tokenizer(locate_model(str(copied), "huggingface"))
    tokenizer.add_tokens(["<one>", "<too>", "<many>"])
    tokenizer.save_pretrained(copied)
    tokens = json.loads((copied / "config.json").read_text())["vocab_size"]
    with pytest.raises(ModelError, match=f"has {tokens + 3} tokens but the model only {tokens}"):
        load(copied)


CALLED = {"return_dict": False, "output_hidden_states": "x", "is_encoder_decoder": "x"}
SEARCHES = {
    **{"suppress_tokens": "x", "bad_words_ids": [["x"]], "prompt_lookup_num_tokens": 5, "constraints": [1]},
    **{"stop_strings": "x", "penalty_alpha": 5, "dola_layers": "x", "sequence_bias": {"a": 1}, "min_length": 10**9},
    **{"return_dict_in_generate": True, "custom_generate": "somebody/code", "cache_implementation": "static"},
}


def answer_of(bundle):
    ids = torch.tensor([[5, 6, 7, 8]])
    ends = bundle.model.generation_config.eos_token_id
    with torch.inference_mode():
        logits = bundle.model(ids).logits
        answer = bundle.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, pad_token_id=0)
    return ends, logits, answer


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_what_files_say_of_how_a_model_is_called_is_left_out(model_folder, copied, file):
    wanted = answer_of(load(model_folder("llama")))
    content = json.loads((copied / file).read_text())
    changes = SEARCHES if file.startswith("generation") else CALLED
    (copied / file).write_text(json.dumps(content | changes))
    found = answer_of(load(copied))
    assert found[0] == wanted[0] is not None
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[1:], wanted[1:], strict=True))
