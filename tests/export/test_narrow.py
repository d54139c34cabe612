"""A base published in fewer bits is trained, answers, and is merged and exported over what its bits stand for."""

import json

import pytest
import torch
from narrow_models import save_narrow
from peft import PeftModel
from random_adapters import IDS, ROWS, logits_of, proof_of
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config

from lorakit.cli import main
from lorakit.model_config.weights.stored_tensors import stored_tensors


def widened_by_transformers(folder, kind):
    """The base as transformers' own quantizer gives it back; it has none for scales of channels without a package."""
    if kind == "channels":
        return None
    how = (Mxfp4Config if kind == "mxfp4" else FineGrainedFP8Config)(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=how).float()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        ("mxfp4", {}),
        ("fp8", {"use_sliding_window": False, "sliding_window": None}),
        ("fp8-experts", {"norm_topk_prob": True, "head_dim": 32}),
        ("channels", {"use_sliding_window": False, "sliding_window": None}),
    ],
)
def test_it_is_trained_asked_merged_and_exported_by_command(kind, chosen, tmp_path, write_rows, capsys):
    base, rows, adapter = save_narrow(kind, tmp_path / "base", **chosen), write_rows(ROWS), tmp_path / "out/lora_model"
    (tmp_path / "empty.yaml").write_text("")

    def run(task, *extra):
        given = ["--task", task, "--config", str(tmp_path / "empty.yaml"), "--model_name_or_path", str(base)]
        given += ["--output_dir", str(tmp_path / "out"), f"--set=train_file={rows}", f"--set=validation_file={rows}"]
        return main([*given, "--max_new_tokens=4", *extra])

    assert run("plan") == 0
    assert "widened to" in " ".join(capsys.readouterr().err.split())
    assert run("train", "--num_train_epochs=2", "--lora_r=2", "--learning_rate=1e-2") == 0
    used = ["--lora_model_path", str(adapter)]
    assert run("evaluate", *used) == 0
    assert run("inference", *used, "--question", "Tea?") == 0
    assert run("merge", *used, f"--export_dir={tmp_path / 'merged'}") == 0
    assert run("export", *used, "--format=peft", f"--export_dir={tmp_path / 'peft'}") == 0
    assert run("export", *used, "--format=gguf", f"--export_dir={tmp_path / 'gguf'}") == 0
    assert run("export", *used, "--format=gguf", "--set=export_dtype=q8_0", f"--export_dir={tmp_path / 'q8'}") == 0
    assert all(proof_of(tmp_path / folder)["proven"] for folder in ("merged", "peft", "gguf", "q8"))

    settings = json.loads((tmp_path / "merged/config.json").read_text())
    assert "quantization_config" not in settings
    assert settings["dtype"] == "bfloat16"
    merged, whole = load_file(tmp_path / "merged/model.safetensors"), stored_tensors(base)
    assert {name: tensor.shape for name, tensor in merged.items()} == {n: one.shape for n, one in whole.items()}
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    reference = widened_by_transformers(base, kind)
    if reference is not None:
        wanted = logits_of(PeftModel.from_pretrained(reference, adapter))
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
        # weights rounded to 8 bits of mantissa, through four layers
        torch.testing.assert_close(found(input_ids=IDS).logits, wanted, rtol=0, atol=0.05 * float(wanted.std()))
