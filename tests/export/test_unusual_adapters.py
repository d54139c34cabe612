"""Adapters and bases beside the usual: other number formats, heads, embeddings, rank-stabilised scaling, own layers."""

import json

import pytest
import torch
from conftest import family_config, save_family
from random_adapters import ROWS, logits_of, plain_logits, plain_model, save_random_adapter
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lorakit.cli import main


@pytest.fixture
def run(tmp_path, write_rows, capsys):
    """Return a function that merges or exports into ``out``: its code and what it said."""
    (tmp_path / "empty.yaml").write_text("")

    def run(task, base, *adapters, extra=()):
        arguments = ["--task", task, "--config", str(tmp_path / "empty.yaml"), "--model_name_or_path", str(base)]
        arguments += ["--lora_model_path", *map(str, adapters), "--export_dir", str(tmp_path / "out")]
        code = main([*arguments, f"--set=validation_file={write_rows(ROWS)}", "--max_new_tokens=12", *extra])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def tied(tmp_path):
    folder = save_family("qwen3", tmp_path / "tied")
    config = family_config("qwen3", 700)
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", ["merge", "export"])
def test_a_base_in_float32_that_is_computed_in_bfloat16_is_merged_from_its_files(task, run, model_folder, tmp_path):
    base = model_folder("llama")
    adapter = save_random_adapter(base, tmp_path / "a")
    code, said = run(task, base, adapter, extra=["--set=torch_dtype=bfloat16", "--set=export_dtype=f32"])
    assert code == 0, said
    if task == "merge":  # what the model in memory has rounded is not written
        wanted = plain_logits(base, [(adapter, 1.0)])
        torch.testing.assert_close(logits_of(plain_model(tmp_path / "out")), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", ["merge", "export"])
def test_a_head_with_an_adapter_is_written_by_itself(task, run, tied, tmp_path):
    adapter = save_random_adapter(tied, tmp_path / "a", target_modules=["lm_head", "q_proj"])
    code, said = run(task, tied, adapter, extra=["--set=export_dtype=f32"])
    assert code == 0, said
    if task == "merge":
        assert not json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
        assert "lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")


def test_embeddings_with_an_adapter_part_from_the_head(run, tied, tmp_path):
    adapter = save_random_adapter(tied, tmp_path / "a", target_modules=["embed_tokens", "q_proj"])
    code, said = run("merge", tied, adapter)
    assert code == 0, said
    own, merged = (load_file(folder / "model.safetensors") for folder in (tied, tmp_path / "out"))
    assert torch.equal(merged["lm_head.weight"], own["model.embed_tokens.weight"])
    assert not torch.equal(merged["model.embed_tokens.weight"], own["model.embed_tokens.weight"])


def test_a_trained_head_is_merged(run, model_folder, tmp_path):
    base = model_folder("llama")
    adapter = save_random_adapter(base, tmp_path / "a", target_modules=["q_proj"], modules_to_save=["lm_head"])
    code, said = run("merge", base, adapter)
    assert code == 0, said


def test_two_with_rank_stabilised_scaling_are_added_up_as_they_are(run, model_folder, tmp_path):
    base = model_folder("llama")
    a, b = (save_random_adapter(base, tmp_path / name, seed, use_rslora=True) for seed, name in enumerate("ab"))
    assert run("merge", base, f"{a}:0.6", f"{b}:0.4")[0] == 0
    wanted = plain_logits(base, [(a, 0.6), (b, 0.4)])
    torch.testing.assert_close(logits_of(plain_model(tmp_path / "out")), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("combination", ["svd", "linear"])
def test_pefts_combinations_are_what_they_are_said_to_be(combination, run, model_folder, tmp_path):
    base = model_folder("llama")
    a, b = (save_random_adapter(base, tmp_path / name, seed) for seed, name in enumerate("ab"))
    assert run("merge", base, f"{a}:0.6", f"{b}:0.4", extra=[f"--set=combination={combination}"])[0] == 0
    own, merged = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    name = "model.layers.0.self_attn.q_proj"
    (a1, b1), (a2, b2) = (matrices(folder, name) for folder in (a, b))
    if combination == "svd":  # the best approximation of the sum by the larger rank, 4
        u, s, v = torch.linalg.svd(2 * (0.6 * b1 @ a1 + 0.4 * b2 @ a2))
        wanted = u[:, :4] @ torch.diag(s[:4]) @ v[:4]
    else:  # matrices are added, not their products
        roots = (2 * 0.6) ** 0.5, (2 * 0.4) ** 0.5
        wanted = (roots[0] * b1 + roots[1] * b2) @ (roots[0] * a1 + roots[1] * a2)
    found = merged[f"{name}.weight"] - own[f"{name}.weight"]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def matrices(folder, name):
    weights = load_file(folder / "adapter_model.safetensors")
    return tuple(weights[f"base_model.model.{name}.lora_{matrix}.weight"] for matrix in "AB")


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"use_dora": True}, "magnitudes (DoRA)"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "layers of its own"),
    ],
)
def test_what_cannot_be_added_up_is_refused(lora, words, run, model_folder, tmp_path):
    base = model_folder("llama")
    plain = save_random_adapter(base, tmp_path / "a")
    other = save_random_adapter(base, tmp_path / "b", 2, **lora)
    code, said = run("merge", base, other, plain)
    assert code == 2
    assert f"'b' has {words}, which cannot be added up" in said


@pytest.mark.every(2)
@pytest.mark.parametrize("family", ["llama", "gpt2"])  # with an output layer of its own, and with a tied one
def test_tokens_of_an_adapter_s_own_become_rows_of_the_model(family, run, model_folder, tmp_path):
    base = model_folder(family)
    adapter = save_random_adapter(base, tmp_path / "a", trainable_token_indices=[5, 6])
    assert run("merge", base, adapter)[0] == 0
    merged = plain_model(tmp_path / "out")
    torch.testing.assert_close(logits_of(merged), plain_logits(base, [(adapter, 1.0)]), rtol=1e-4, atol=1e-4)
    assert merged.config.tie_word_embeddings == plain_model(base).config.tie_word_embeddings


def test_trained_biases_of_the_base_are_refused(run, model_folder, tmp_path):
    base = model_folder("gpt2")
    code, said = run("merge", base, save_random_adapter(base, tmp_path / "a", bias="all"))
    assert code == 2
    assert "has trained biases of its base (bias: all)" in said


def test_what_somebody_has_added_to_the_folder_is_kept(run, model_folder, tmp_path):
    base = model_folder("llama")
    adapter = save_random_adapter(base, tmp_path / "a")
    assert run("merge", base, adapter)[0] == 0
    (tmp_path / "out" / "README.md").write_text("mine")
    assert run("merge", base, adapter, extra=["--set=export_dtype=bf16"])[0] == 0
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    assert not list(tmp_path.glob("out.*"))
