"""`--task merge`: a model that plain transformers answers with as the adapter does, or a folder called unproven."""

import errno
import hashlib
import json
from dataclasses import replace

import pytest
import torch
from agreement_models import small_model
from conftest import FAMILIES, family_tokenizer, save_family
from random_adapters import ROWS, logits_of, plain_logits, plain_model, proof_of, save_random_adapter
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from vision import draw, save_vision_model

from lorakit.cli import main
from lorakit.export import merging
from lorakit.runs import working_folder


@pytest.fixture
def merge(tmp_path, write_rows):
    """Return a function that runs ``--task merge`` into ``merged``."""
    (tmp_path / "empty.yaml").write_text("")

    def run(base, *adapters, extra=()):
        arguments = ["--task", "merge", "--config", str(tmp_path / "empty.yaml"), "--model_name_or_path", str(base)]
        arguments += ["--lora_model_path", *map(str, adapters), "--export_dir", str(tmp_path / "merged")]
        return main([*arguments, f"--set=validation_file={write_rows(ROWS)}", "--max_new_tokens=12", *extra])

    return run


@pytest.mark.every(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_computes_with_the_folder_what_the_adapter_did(family, merge, model_folder, tmp_path):
    base = model_folder(family)
    adapter = save_random_adapter(base, tmp_path / "a")
    assert merge(base, adapter) == 0
    torch.testing.assert_close(
        logits_of(plain_model(tmp_path / "merged")), plain_logits(base, [(adapter, 1.0)]), rtol=1e-4, atol=1e-4
    )
    proof = proof_of(tmp_path / "merged")
    assert proof["proven"]
    assert proof["questions"] == proof["equal_answers"] == 3
    assert proof["largest_kl_nats"] < 1e-4
    assert proof["layers"] >= 8
    assert str(tmp_path) not in json.dumps(proof)
    assert not (tmp_path / "merged.unproven").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["xlstm", "falcon_h1", "gpt_oss"])
def test_families_that_compute_in_their_own_ways_are_merged_with_proof(family, merge, tmp_path):
    tokenizer = family_tokenizer("qwen3")
    small_model(family, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapter = save_random_adapter(tmp_path / "base", tmp_path / "a", target_modules=["q_proj", "v_proj", "q", "v"])
    assert merge(tmp_path / "base", adapter) == 0
    assert proof_of(tmp_path / "merged")["proven"]


def test_the_folder_has_all_that_a_model_needs_and_stops_where_the_adapter_does(merge, model_folder, tmp_path):
    base = model_folder("gpt2")  # which has no chat template of its own
    assert merge(base, save_random_adapter(base, tmp_path / "a")) == 0
    folder = tmp_path / "merged"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Q"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == "### Question:\nQ\n\n### Answer:\n"
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    assert tokenizer.eos_token_id in (stops if isinstance(stops, list) else [stops])
    assert AutoConfig.from_pretrained(folder).model_type == "gpt2"


def test_several_adapters_become_one_model_by_their_weights(merge, model_folder, tmp_path):
    base = model_folder("llama")
    a, b = (save_random_adapter(base, tmp_path / name, seed) for seed, name in enumerate("ab"))
    assert merge(base, f"first={a}:0.7", f"second={b}:0.3") == 0
    wanted = plain_logits(base, [(a, 0.7), (b, 0.3)])
    torch.testing.assert_close(logits_of(plain_model(tmp_path / "merged")), wanted, rtol=1e-4, atol=1e-4)
    assert [(part["name"], part["weight"]) for part in proof_of(tmp_path / "merged")["adapters"]] == [
        ("first", 0.7),
        ("second", 0.3),
    ]


@pytest.mark.every(3)
@pytest.mark.parametrize("combination", ["linear", "svd", "ties", "dare_linear", "dare_ties"])
def test_pefts_combinations_are_proven_too(combination, merge, model_folder, tmp_path):
    base = model_folder("qwen3")
    adapters = [save_random_adapter(base, tmp_path / name, seed) for seed, name in enumerate("ab")]
    assert merge(base, *adapters, extra=[f"--set=combination={combination}"]) == 0
    assert proof_of(tmp_path / "merged")["proven"]


@pytest.mark.parametrize(("name", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_number_format_is_the_one_asked_for(name, dtype, merge, model_folder, tmp_path):
    base = model_folder("llama")
    assert merge(base, save_random_adapter(base, tmp_path / "a"), extra=[f"--set=export_dtype={name}"]) == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "merged" / "model.safetensors").values()} == {dtype}
    assert AutoConfig.from_pretrained(tmp_path / "merged").dtype == dtype


@pytest.mark.slow
def test_a_vision_language_model_is_merged_and_asked_about_pictures(tmp_path, merge, write_rows):
    base = save_vision_model(tmp_path / "base")
    picture = draw(tmp_path / "red.png", (40, 40), "red")
    write_rows([{"text": "图里是什么？", "target": "圆", "image": picture}], "pictures.json")
    rows = tmp_path / "pictures.json"
    out = tmp_path / "run"
    settings = [
        f"train_file={rows}",
        "validation_file=null",
        "torch_dtype=float32",
        "min_pixels=256",
        "max_pixels=4096",
    ]
    code = main(
        [
            *(
                "--task",
                "train",
                "--model_name_or_path",
                str(base),
                "--output_dir",
                str(out),
                "--num_train_epochs",
                "2",
            ),
            *("--learning_rate", "2e-2", *(f"--set={setting}" for setting in settings)),
        ]
    )
    assert code == 0
    extra = [f"--set=validation_file={rows}", "--set=min_pixels=256", "--set=max_pixels=4096"]
    assert merge(base, out / "lora_model", extra=extra) == 0
    assert (tmp_path / "merged" / "preprocessor_config.json").is_file()
    assert proof_of(tmp_path / "merged")["proven"]


def _doubled(tensors, own):
    return lambda name: 2 * tensors.read(name) - own.read(name)


def _one_left_out(tensors, own):
    changed = [name for name in tensors.shapes if not torch.equal(tensors.read(name), own.read(name))]
    return lambda name: own.read(name) if name == changed[2] else tensors.read(name)


def _transposed(tensors, own):
    def read(name):
        delta = tensors.read(name) - own.read(name)
        return own.read(name) + (delta.T if delta.dim() == 2 and delta.shape[0] == delta.shape[1] else delta)

    return read


def _embeddings_lost(tensors, own):
    return lambda name: torch.zeros_like(own.read(name)) if "embed" in name else tensors.read(name)


@pytest.mark.every(3)
@pytest.mark.parametrize("spoil", [_doubled, _one_left_out, _transposed, _embeddings_lost])
def test_a_wrong_merge_ends_with_1_in_a_folder_called_unproven(
    spoil, merge, model_folder, tmp_path, monkeypatch, capsys
):
    right = merging.merged_tensors

    def wrong(model, base, dtype):
        tensors = right(model, base, dtype)
        return replace(tensors, read=spoil(tensors, base))

    monkeypatch.setattr(merging, "merged_tensors", wrong)
    base = model_folder("llama")
    assert merge(base, save_random_adapter(base, tmp_path / "a")) == 1
    assert not (tmp_path / "merged").exists()
    proof = proof_of(tmp_path / "merged.unproven")
    assert not proof["proven"]
    assert proof["faults"]
    assert "is not the adapter on its base" in capsys.readouterr().err


def test_what_somebody_adds_to_an_unproven_folder_stays(merge, model_folder, tmp_path, monkeypatch):
    right = merging.merged_tensors

    def wrong(model, base, dtype):
        tensors = right(model, base, dtype)
        return replace(tensors, read=_doubled(tensors, base))

    monkeypatch.setattr(merging, "merged_tensors", wrong)
    base, kept = model_folder("llama"), tmp_path / "merged.unproven"
    assert merge(base, save_random_adapter(base, tmp_path / "a")) == 1
    written = sorted(path.name for path in kept.iterdir())
    (kept / "notes.txt").write_text("mine")
    assert merge(base, save_random_adapter(base, tmp_path / "b", 2)) == 1
    assert sorted(path.name for path in kept.iterdir()) == sorted([*written, "notes.txt"])
    assert (kept / "notes.txt").read_text() == "mine"


def test_a_lost_tied_head_is_found(merge, tmp_path, monkeypatch, capsys):
    base = save_family("qwen3", tmp_path / "base")
    config = AutoConfig.from_pretrained(base)
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    monkeypatch.setattr(merging, "unties_head", lambda model: True)  # config.json says so, but no head is written
    assert merge(base, save_random_adapter(base, tmp_path / "a")) == 1
    assert "lm_head.weight" in capsys.readouterr().err
    assert (tmp_path / "merged.unproven").is_dir()


def test_a_tokenizer_that_writes_other_prompts_is_found(merge, model_folder, tmp_path, monkeypatch, capsys):
    own = merging.write_settings

    def with_another_template(assistant, dtype, folder):
        own(assistant, dtype, folder)
        assistant.bundle.tokenizer.chat_template = "{{ '!' }}" + assistant.bundle.tokenizer.chat_template

    monkeypatch.setattr(merging, "write_settings", with_another_template)
    base = model_folder("llama")
    assert merge(base, save_random_adapter(base, tmp_path / "a")) == 1
    assert "prompts in another way" in capsys.readouterr().err


def test_an_adapter_lost_in_rounding_is_refused_with_the_format_that_keeps_it(merge, tmp_path, capsys):
    base = save_family("llama", tmp_path / "base")
    files = load_file(base / "model.safetensors")
    rounded = {name: (30 * value).to(torch.bfloat16).float() for name, value in files.items()}
    save_file(rounded, base / "model.safetensors", metadata={"format": "pt"})
    adapter = save_random_adapter(base, tmp_path / "a", size=0.02)
    assert merge(base, adapter, extra=["--set=export_dtype=bf16"]) == 1
    assert "set export_dtype=f32" in capsys.readouterr().err
    assert proof_of(tmp_path / "merged.unproven")["share_of_effect_found"] < 0.8
    assert merge(base, adapter, extra=["--set=export_dtype=f32"]) == 0


def test_what_stands_in_the_folder_is_not_overwritten(merge, model_folder, tmp_path, capsys):
    base = model_folder("llama")
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "thesis.txt").write_text("mine")
    assert merge(base, save_random_adapter(base, tmp_path / "a")) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "merged").iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_explained_and_leaves_nothing(merge, model_folder, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(working_folder(tmp_path / "merged") / "w"))

    monkeypatch.setattr(merging, "write_checkpoint", full)
    base = model_folder("llama")
    assert merge(base, save_random_adapter(base, tmp_path / "a")) == 2
    assert "can no longer be written (No space left on device)" in capsys.readouterr().err
    assert not list(tmp_path.glob("merged*"))


@pytest.mark.every(3)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_what_somebody_has_changed_in_an_earlier_merge_is_kept_beside_it(merge, model_folder, tmp_path, capsys, name):
    base, merged = model_folder("llama"), tmp_path / "merged"
    assert merge(base, save_random_adapter(base, tmp_path / "a")) == 0
    written = {path.name for path in merged.iterdir()}
    (merged / name).write_text("mine")
    assert merge(base, save_random_adapter(base, tmp_path / "b", 2)) == 0
    assert {path.name for path in merged.iterdir()} == written | {f"{name}.kept"}
    assert (merged / f"{name}.kept").read_text() == "mine"
    assert f"{name}: not as lorakit wrote it, and kept as {name}.kept" in capsys.readouterr().err
    assert proof_of(merged)["files"][name] == hashlib.sha256((merged / name).read_bytes()).hexdigest()


def test_an_earlier_merge_is_replaced_when_the_new_one_is_proven(merge, model_folder, tmp_path):
    base = model_folder("llama")
    for seed in (1, 2):
        adapter = save_random_adapter(base, tmp_path / f"a{seed}", seed)
        assert merge(base, adapter) == 0
    wanted = plain_logits(base, [(adapter, 1.0)])
    torch.testing.assert_close(logits_of(plain_model(tmp_path / "merged")), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--set=export_dtype=q8_0"], "export_dtype: q8_0 is for GGUF files"),
        (["--use_original_model"], "there is no adapter to write"),
        (["--set=load_in_8bit=true"], "merged into the full weights"),
        (["--set=combination=mean"], "combination"),
    ],
)
def test_a_wrong_setting_ends_with_2_and_leaves_nothing(extra, said, merge, model_folder, tmp_path, capsys):
    base = model_folder("llama")
    assert merge(base, save_random_adapter(base, tmp_path / "a"), extra=extra) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
