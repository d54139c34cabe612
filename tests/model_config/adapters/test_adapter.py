"""An adapter is attached only where it belongs."""

import json
import shutil

import pytest
import torch
from conftest import FAMILIES, save_family
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lorakit.config import Config
from lorakit.engine import DtypeChoice
from lorakit.errors import AdapterError
from lorakit.model_config import (
    AdapterRecord,
    attach_adapter,
    attach_new_adapter,
    load_model,
    load_tokenizer,
    locate_model,
    read_record,
    save_adapter,
)
from lorakit.runs import write_own_text


def bundle(folder):
    source = locate_model(str(folder), "huggingface")
    return load_model(source, load_tokenizer(source), DtypeChoice(torch.float32, "test"), torch.device("cpu"))


def saved_adapter(base, folder):
    """An adapter with effect, saved as training saves it; returns its logits as well."""
    opened = bundle(base)
    torch.manual_seed(1)
    model = attach_new_adapter(opened, Config(target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter)
    record = AdapterRecord(opened.source.name, opened.source.fingerprint(), "hash", "<end>", None, False)
    save_adapter(model, opened.tokenizer, record, folder)
    return logits_of(model)


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[5, 6, 7, 8]])).logits


@pytest.fixture
def adapter(model_folder, tmp_path):
    folder = tmp_path / "lora_model"
    return folder, saved_adapter(model_folder("llama"), folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_attached_again_the_logits_are_those_in_memory(model_folder, tmp_path, family):
    logits = saved_adapter(model_folder(family), tmp_path / "a")
    assert torch.equal(logits_of(attach_adapter(bundle(model_folder(family)), tmp_path / "a")), logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_loads_it_too(model_folder, tmp_path, family):
    logits = saved_adapter(model_folder(family), tmp_path / "a")
    base = AutoModelForCausalLM.from_pretrained(model_folder(family), dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, tmp_path / "a")
    torch.testing.assert_close(logits_of(plain), logits, rtol=1e-4, atol=1e-5)


def test_only_adapter_record_and_tokenizer_are_saved(adapter):
    names = {path.name for path in adapter[0].iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "lorakit.json", "tokenizer.json"} <= names
    assert not any(name.startswith(("model", "pytorch_model")) for name in names)
    assert sorted(path.name for path in adapter[0].parent.iterdir()) == [".lorakit-written.json", "lora_model"]


def test_an_adapter_replaces_the_one_before_it(model_folder, adapter):
    folder, _ = adapter
    write_own_text(folder.parent, "lora_model/README.md", "of the one before")
    saved_adapter(model_folder("llama"), folder)
    assert not (folder / "README.md").exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lorakit-written.json", "lora_model"]


@pytest.mark.parametrize("name", ["notes.txt", "README.md"])
def test_one_in_which_somebody_has_added_or_changed_files_is_kept_with_them(model_folder, adapter, name, capsys):
    folder, _ = adapter
    (folder / name).write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    saved_adapter(model_folder("llama"), folder)
    assert not (folder / name).exists()
    assert "lora_model: not as lorakit wrote it, and kept in" in capsys.readouterr().err
    kept = folder.parent / "previous" / "1" / folder.name
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_the_record_comes_back(adapter):
    record = read_record(adapter[0])
    assert record.template_hash == "hash"
    assert record.lorakit_version


def refuse(base, folder, reason):
    with pytest.raises(AdapterError) as caught:
        attach_adapter(bundle(base), folder)
    assert reason in caught.value.message
    assert caught.value.hint


def test_the_same_architecture_with_other_weights_is_refused(adapter, tmp_path):
    other = save_family("llama", tmp_path / "other", seed=1)
    refuse(other, adapter[0], "whose weights are not those of")


def test_another_architecture_is_refused_without_the_record_too(adapter, model_folder):
    (adapter[0] / "lorakit.json").unlink()
    refuse(model_folder("gpt2"), adapter[0], "does not fit")


@pytest.mark.parametrize("content", [b"", b"\xff" * 64])
def test_damaged_weights_are_no_fault_of_the_base(adapter, model_folder, content):
    (adapter[0] / "adapter_model.safetensors").write_bytes(content)
    refuse(model_folder("llama"), adapter[0], "adapter_model.safetensors is damaged")


def rewrite(folder, change):
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights, metadata={"format": "pt"})


def test_missing_tensors_are_refused(adapter, model_folder):
    rewrite(adapter[0], lambda tensors: tensors.pop(sorted(tensors)[0]))
    refuse(model_folder("llama"), adapter[0], "lacks 1 of its tensors")


def test_unexpected_tensors_are_refused(adapter, model_folder):
    rewrite(adapter[0], lambda tensors: tensors.update({"base_model.model.stray.lora_A.weight": torch.ones(1)}))
    refuse(model_folder("llama"), adapter[0], "has, unknown to the model, 1 of its tensors")


def test_keys_of_another_tool_s_prefix_are_refused_not_left_inert(adapter, model_folder):
    def rename(tensors):
        for key in list(tensors):
            tensors[key.replace("base_model.model.", "base_model.model.language_model.")] = tensors.pop(key)

    rewrite(adapter[0], rename)
    refuse(model_folder("llama"), adapter[0], "of its tensors")


def test_wrong_shapes_are_refused(adapter, model_folder):
    def halve(tensors):
        key = next(key for key in tensors if "lora_B" in key)
        tensors[key] = tensors[key][: len(tensors[key]) // 2].clone()

    rewrite(adapter[0], halve)
    refuse(model_folder("llama"), adapter[0], "does not fit")


def test_truncated_weights_are_refused(adapter, model_folder):
    weights = adapter[0] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refuse(model_folder("llama"), adapter[0], "adapter_model.safetensors is damaged")


def test_pickled_weights_are_refused(adapter, model_folder):
    (adapter[0] / "adapter_model.safetensors").rename(adapter[0] / "adapter_model.bin")
    refuse(model_folder("llama"), adapter[0], "are a pickle")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("adapter_config.json", "{", "is damaged"),
        ("adapter_config.json", '{"peft_type": "IA3"}', "is a IA3 adapter"),
        ("lorakit.json", "[]", "is damaged"),
        ("lorakit.json", '{"base_model": "x"}', "is damaged"),
    ],
)
def test_damaged_files_are_named(adapter, model_folder, name, content, reason):
    (adapter[0] / name).write_text(content)
    refuse(model_folder("llama"), adapter[0], reason)


def test_a_folder_without_an_adapter_says_how_to_get_one(model_folder, tmp_path):
    with pytest.raises(AdapterError) as caught:
        attach_adapter(bundle(model_folder("llama")), tmp_path / "none")
    assert "--task train" in caught.value.hint
    assert "--use_original_model" in caught.value.hint


def test_an_adapter_made_by_plain_peft_is_taken(model_folder, tmp_path, capsys):
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    made = get_peft_model(base, lora)
    made.save_pretrained(tmp_path / "made")
    attached = attach_adapter(bundle(model_folder("llama")), tmp_path / "made")
    torch.testing.assert_close(logits_of(attached), logits_of(made))
    assert "warning" not in capsys.readouterr().err


def test_an_adapter_that_names_another_base_is_warned_about(model_folder, tmp_path, capsys):
    folder = shutil.copytree(model_folder("llama"), tmp_path / "renamed")
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(tmp_path / "x")
    attach_adapter(bundle(folder), tmp_path / "x")
    said = capsys.readouterr().err
    assert "the weights of its base are unknown" in said
    assert "as its base, not" in said


def test_an_adapter_without_effect_is_warned_about(model_folder, tmp_path, capsys):
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "x")
    attach_adapter(bundle(model_folder("llama")), tmp_path / "x")
    assert "this adapter changes nothing" in capsys.readouterr().err


def test_no_setting_of_the_record_is_lost():
    record = AdapterRecord("m", "f", "t", "e", "s", True)
    assert json.loads(json.dumps(record.__dict__))["thinking"] is True
    assert Config(thinking=False).thinking is False
