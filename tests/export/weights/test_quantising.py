"""Fewer bits by llama.cpp's own quantiser: where it is, what it makes of a model is proven; else it is asked for."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from export_models import logits, other_family, tensor_formats, write
from random_adapters import ROWS, proof_of, save_random_adapter

from lorakit.cli import main
from lorakit.errors import ModelError, SettingsError
from lorakit.export.weights import quantising
from lorakit.export.weights.quantising import PYTHON_VARIABLE, quantise, quantiser

PYTHON = os.environ.get(PYTHON_VARIABLE)
RUNNER = Path(__file__).parents[1] / "llama_cpp_runner.py"
WIDE = {"hidden_size": 256, "intermediate_size": 512}  # llama.cpp's blocks have 256 numbers
needs_llama_cpp = pytest.mark.skipif(PYTHON is None, reason="LLAMA_CPP_PYTHON names no Python with llama-cpp-python")


@pytest.fixture
def export(tmp_path, write_rows, capsys):
    (tmp_path / "empty.yaml").write_text("")

    def run(dtype, base, adapter):
        given = ["--task", "export", "--format", "gguf", "--config", str(tmp_path / "empty.yaml")]
        given += ["--model_name_or_path", str(base), "--lora_model_path", str(adapter), f"--set=export_dtype={dtype}"]
        given += ["--export_dir", str(tmp_path / "out"), f"--set=validation_file={write_rows(ROWS)}"]
        return main([*given, "--max_new_tokens=12"]), capsys.readouterr().err

    return run


def test_without_llama_cpp_it_is_asked_for_before_anything_is_loaded(export, tmp_path, monkeypatch):
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(quantising, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="Python package is not installed"):
        quantiser()
    code, said = export("q4_k_m", tmp_path / "no-base", tmp_path / "no-adapter")
    assert code == 2
    assert ".[gguf-quantized]" in said
    assert not (tmp_path / "out").exists()


def test_what_the_quantiser_does_not_take_leaves_the_older_file(tmp_path, monkeypatch):
    monkeypatch.setenv(PYTHON_VARIABLE, "/bin/false")
    (tmp_path / "new.gguf").write_text("older")
    with pytest.raises(ModelError, match="does not quantise this model"):
        quantise(tmp_path / "m.gguf", tmp_path / "new.gguf", "q4_k_m")
    assert [file.name for file in tmp_path.iterdir()] == ["new.gguf"]
    assert (tmp_path / "new.gguf").read_text() == "older"


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "dtype", "kind"),
    [
        ("qwen2", "q6_k", "Q6_K"),
        ("qwen2", "q5_k_m", "Q5_K"),
        ("qwen2", "q4_k_m", "Q4_K"),
        ("smollm3", "q4_k_m", "Q4_K"),
        ("qwen3_moe", "q4_k_m", "Q4_K"),
    ],
)
def test_it_is_proven_and_llama_cpp_computes_what_the_proof_read(family, dtype, kind, export, tmp_path):
    model, tokenizer = other_family(family, **WIDE)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    lora = {"target_modules": r".*self_attn.*_proj", "size": 0.05}
    code, said = export(dtype, tmp_path / "base", save_random_adapter(tmp_path / "base", tmp_path / "a", **lora))
    assert code == 0, said
    folder, proof = tmp_path / "out", proof_of(tmp_path / "out")
    assert proof["written_as"] == dtype
    assert 0 < proof["equal_tokens"] <= proof["tokens"]
    assert kind in tensor_formats(folder / f"model-{dtype}.gguf").values()
    assert {file.name for file in folder.iterdir()} == {
        f"model-{dtype}.gguf",
        "adapter.gguf",
        "Modelfile",
        "proof.json",
    }


@needs_llama_cpp
@pytest.mark.slow
def test_llama_cpp_computes_what_is_read_back(tmp_path):
    model, tokenizer = other_family("qwen2", **WIDE)
    quantise(write(model, tokenizer, tmp_path / "m.gguf"), tmp_path / "q.gguf", "q4_k_m")
    read = type(model).from_pretrained(tmp_path, gguf_file="q.gguf", config=model.config, dtype=torch.float32).eval()
    ids = list(range(5, 45))
    request = json.dumps({"model": str(tmp_path / "q.gguf"), "prompts": [ids]})
    done = subprocess.run([PYTHON, str(RUNNER)], input=request, capture_output=True, text=True, check=True)
    found, wanted = torch.tensor(json.loads(done.stdout)["logits"][0]), logits(read, ids)[0, -1]
    # llama.cpp rounds what it multiplies by such weights to 8 bits
    assert (found - wanted).norm() / wanted.norm() < 0.05
    assert (wanted - logits(model, ids)[0, -1]).norm() / wanted.norm() > 0.005
