"""`--task export`: GGUF and PEFT files that compute what the adapter does, or a folder called unproven."""

from dataclasses import replace

import pytest
import torch
from export_models import loaded, metadata, other_family
from peft import LoraConfig, PeftModel, get_peft_model
from random_adapters import ROWS, logits_of, plain_logits, plain_model, proof_of, save_random_adapter
from safetensors.torch import load_file

from lorakit.agreement import adaptable_targets
from lorakit.cli import main
from lorakit.export import gguf_files as gguf_export
from lorakit.export import peft_files

FAMILIES = ("qwen3", "llama", "gpt2")


@pytest.fixture
def export(tmp_path, write_rows, capsys):
    """Return a function that runs ``--task export`` into ``out``: its code and what it said."""
    (tmp_path / "empty.yaml").write_text("")

    def run(kind, base, *adapters, extra=()):
        arguments = ["--task", "export", "--format", kind, "--config", str(tmp_path / "empty.yaml")]
        arguments += ["--model_name_or_path", str(base), "--lora_model_path", *map(str, adapters)]
        arguments += ["--export_dir", str(tmp_path / "out"), f"--set=validation_file={write_rows(ROWS)}"]
        code = main([*arguments, "--max_new_tokens=12", *extra])
        return code, capsys.readouterr().err

    return run


@pytest.mark.every(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_computes_what_the_adapter_does(family, export, model_folder, tmp_path):
    base = model_folder(family)
    adapter = save_random_adapter(base, tmp_path / "a")
    code, said = export("gguf", base, adapter, extra=["--set=export_dtype=f32", "--set=system_prompt=你好"])
    assert code == 0, said
    folder = tmp_path / "out"
    assert {file.name for file in folder.iterdir()} == {"model-f32.gguf", "adapter.gguf", "Modelfile", "proof.json"}
    wanted = plain_logits(base, [(adapter, 1.0)])
    torch.testing.assert_close(
        logits_of(loaded(folder / "model-f32.gguf", plain_model(base).config)), wanted, rtol=1e-3, atol=1e-3
    )
    assert proof_of(folder)["proven"]
    assert "FROM ./model-f32.gguf" in (folder / "Modelfile").read_text(encoding="utf-8")
    assert 'SYSTEM """你好"""' in (folder / "Modelfile").read_text(encoding="utf-8")
    assert "tokenizer.chat_template" in metadata(folder / "model-f32.gguf")


@pytest.mark.every(4)
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "smollm3", "gemma3_text"])
def test_other_families_are_exported_with_what_adapters_do_to_their_experts(family, export, tmp_path):
    model, tokenizer = other_family(family)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    layers, experts = adaptable_targets(model)
    assert bool(experts) is (family in {"qwen3_moe", "gpt_oss"})
    adapter = get_peft_model(
        model, LoraConfig(r=2, target_modules=layers, target_parameters=experts, init_lora_weights=False)
    )
    for name, parameter in adapter.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    adapter.save_pretrained(str(tmp_path / "a"))
    code, said = export("gguf", tmp_path / "base", tmp_path / "a", extra=["--set=export_dtype=f32"])
    assert code == 0, said
    proof = proof_of(tmp_path / "out")
    assert proof["proven"]
    assert proof["layers"] == sum("lora_A" in name for name, _ in adapter.named_parameters())
    assert (tmp_path / "out" / "adapter.gguf").exists() is not bool(experts)


@pytest.mark.every(3)
@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_fewer_bits_are_proven_too(dtype, export, model_folder, tmp_path):
    base = model_folder("llama")
    code, said = export("gguf", base, save_random_adapter(base, tmp_path / "a"), extra=[f"--set=export_dtype={dtype}"])
    assert code == 0, said
    assert proof_of(tmp_path / "out")["written_as"] == dtype


def test_an_adapter_that_rounding_drowns_is_refused_though_its_layers_have_it(export, model_folder, tmp_path):
    base = model_folder("llama")
    faint = save_random_adapter(base, tmp_path / "a", size=0.005)
    code, said = export("gguf", base, faint, extra=["--set=export_dtype=q8_0"])
    proof = proof_of(tmp_path / "out.unproven")
    assert code == 1
    assert proof["mean_kl_nats"] > 0.5 * proof["base_mean_kl_nats"] > 0
    assert proof["mean_kl_nats"] < proof["tolerance"]["mean_kl"]  # by that alone it would pass
    assert "the adapter's effect is drowned" in said
    assert "set export_dtype=f32" in said
    assert export("gguf", base, faint, extra=["--set=export_dtype=f32"])[0] == 0


def test_several_adapters_are_exported_as_their_weighted_sum(export, model_folder, tmp_path):
    base = model_folder("qwen3")
    a, b = (save_random_adapter(base, tmp_path / name, seed) for seed, name in enumerate("ab"))
    assert export("gguf", base, f"{a}:0.6", f"{b}:0.4", extra=["--set=export_dtype=f32"])[0] == 0
    wanted = plain_logits(base, [(a, 0.6), (b, 0.4)])
    torch.testing.assert_close(
        logits_of(loaded(tmp_path / "out" / "model-f32.gguf", plain_model(base).config)), wanted, rtol=1e-3, atol=1e-3
    )
    assert (tmp_path / "out" / "adapter.gguf").is_file()


def test_dora_has_no_adapter_file_and_a_model_all_the_same(export, model_folder, tmp_path):
    base = model_folder("llama")
    code, said = export("gguf", base, save_random_adapter(base, tmp_path / "a", use_dora=True))
    assert code == 0, said
    assert "adapter.gguf is left out" in said
    assert not (tmp_path / "out" / "adapter.gguf").exists()


def test_a_wrong_gguf_file_is_found(export, model_folder, tmp_path, monkeypatch):
    right = gguf_export.merged_tensors

    def wrong(model, base, dtype):
        tensors = right(model, base, dtype)
        return replace(
            tensors, read=lambda name: tensors.read(name).neg() if "down_proj" in name else tensors.read(name)
        )

    monkeypatch.setattr(gguf_export, "merged_tensors", wrong)
    base = model_folder("llama")
    code, said = export("gguf", base, save_random_adapter(base, tmp_path / "a"))
    assert code == 1
    assert "is not the adapter on its base" in said
    assert not (tmp_path / "out").exists()
    assert not proof_of(tmp_path / "out.unproven")["proven"]


@pytest.mark.every(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_adapter_file_is_found(family, export, model_folder, tmp_path, monkeypatch):
    right = gguf_export.adapter_weights

    def wrong(model, slot):
        weights = right(model, slot)
        name = next(iter(weights))
        return weights | {name: replace(weights[name], scaling=2 * weights[name].scaling)}

    monkeypatch.setattr(gguf_export, "adapter_weights", wrong)
    base = model_folder(family)
    code, said = export("gguf", base, save_random_adapter(base, tmp_path / "a"))
    assert code == 1
    assert "adapter.gguf does something else in blk.0.attn_" in said


def test_a_family_that_llama_cpp_does_not_get_is_refused(export, model_folder, tmp_path):
    base = model_folder("opt")
    code, _ = export("gguf", base, save_random_adapter(base, tmp_path / "a"))
    assert code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-5), ("bf16", 5e-2)])
def test_an_adapter_in_another_format_is_read_by_peft(dtype, tolerance, export, model_folder, tmp_path):
    base = model_folder("llama")
    adapter = save_random_adapter(base, tmp_path / "a")
    assert export("peft", base, f"{adapter}:0.5", extra=[f"--set=export_dtype={dtype}"])[0] == 0
    found = logits_of(PeftModel.from_pretrained(plain_model(base), str(tmp_path / "out")))
    torch.testing.assert_close(found, plain_logits(base, [(adapter, 0.5)]), rtol=tolerance, atol=tolerance)
    assert proof_of(tmp_path / "out")["proven"]


def test_several_adapters_become_one_for_peft(export, model_folder, tmp_path):
    base = model_folder("llama")
    a = save_random_adapter(base, tmp_path / "a", 1)
    b = save_random_adapter(base, tmp_path / "b", 2, r=2, target_modules=["v_proj"])
    assert export("peft", base, f"{a}:0.6", f"{b}:0.4")[0] == 0
    found = logits_of(PeftModel.from_pretrained(plain_model(base), str(tmp_path / "out")))
    torch.testing.assert_close(found, plain_logits(base, [(a, 0.6), (b, 0.4)]), rtol=1e-4, atol=1e-5)


def test_tensors_get_the_names_that_another_tool_wants(export, model_folder, tmp_path):
    base = model_folder("llama")
    adapter = save_random_adapter(base, tmp_path / "a")
    keys = '--set=adapter_keys={base_model.model.model.: "layers-of.", base_model.model.: ""}'
    assert export("peft", base, adapter, extra=[keys])[0] == 0
    names = set(load_file(tmp_path / "out" / "adapter_model.safetensors"))
    assert all(name.startswith("layers-of.layers.") for name in names)
    assert len(names) == len(load_file(adapter / "adapter_model.safetensors"))


def test_names_that_fall_together_are_refused(export, model_folder, tmp_path):
    base = model_folder("llama")
    keys = (
        "--set=adapter_keys={"
        + ", ".join(f'base_model.model.model.layers.{number}.: "same."' for number in range(2))
        + "}"
    )
    code, said = export("peft", base, save_random_adapter(base, tmp_path / "a"), extra=[keys])
    assert code == 2
    assert "gives two tensors one name" in said


def test_a_wrong_adapter_for_peft_is_found(export, model_folder, tmp_path, monkeypatch):
    right = peft_files.renamed
    monkeypatch.setattr(peft_files, "renamed", lambda key, keys: right(key, keys).replace("lora_A.", "lora_A.old."))
    base = model_folder("llama")
    code, said = export("peft", base, save_random_adapter(base, tmp_path / "a"))
    assert code == 1
    assert "PEFT does not know" in said
    assert not (tmp_path / "out").exists()
