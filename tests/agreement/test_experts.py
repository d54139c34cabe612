"""Mixtures of experts: what ``all-linear`` adapts, and the loss that keeps routers even."""

import json
from array import array

import pytest
import torch
from agreement_models import small_model
from conftest import TRAIN_FILE, VALIDATION_FILE, family_tokenizer
from torch.nn.functional import cross_entropy

from lorakit.agreement import adaptable_layers, adaptable_targets, expert_weights
from lorakit.cli import main
from lorakit.data_processing import EncodedExample
from lorakit.data_processing.tokens.packing import pack
from lorakit.engine import summed_loss

FAMILIES = {  # the parameters that hold experts in a layer, and a layer that must be left alone
    "qwen3_moe": ({"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}, "gate"),
    "gpt_oss": ({"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}, "router"),
    "qwen2_moe": ({"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}, "shared_expert_gate"),
    "llama4_text": ({"feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"}, "router"),
    "granitemoe": ({"block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"}, "router"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_are_adapted_and_routers_are_not(family):
    model = small_model(family)
    weights, router = FAMILIES[family]
    own = {name.split(".", 3)[3] for name in expert_weights(model)}
    assert own == weights
    assert not any(router in name.split(".") for name in adaptable_layers(model))
    if family == "qwen2_moe":  # PEFT would take a shared expert for one of the fused ones, and leave it out
        _, parameters = adaptable_targets(model)
        assert {f"model.layers.{n}.mlp.shared_expert.up_proj.weight" for n in range(4)} <= set(parameters)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_the_loss_that_keeps_routers_even_is_added_where_the_settings_ask_for_it(family):
    model = small_model(family, output_router_logits=True, router_aux_loss_coef=0.5).train()
    wanted, rows = 0.0, [[5, 9, 70, 200, 31, 8], [90, 6, 7, 44, 120, 4, 81, 17, 3]]
    for row in rows:
        output = model(input_ids=torch.tensor([row[:-1]]))  # what predicts the last target is the last that is computed
        nats = cross_entropy(output.logits[0, 2:], torch.tensor(row[3:]), reduction="sum").item()
        balance = 0.5 * output.aux_loss.item()
        assert balance > 0.5  # large enough to be missed
        wanted += nats + balance * len(row[3:])
    encoded = [EncodedExample(array("i", row), array("i", [-100] * 3 + row[3:]), "") for row in rows]
    assert summed_loss(model, pack(encoded)).item() == pytest.approx(wanted, rel=1e-5)
    model.eval()  # where scores are of answers alone
    assert summed_loss(model, pack(encoded)).item() < wanted - 1


@pytest.fixture(scope="module")
def expert_folder(tmp_path_factory):
    """Return a function from a family to the folder of a small model of it, with a tokenizer."""

    def folder_of(family):
        folder = tmp_path_factory.mktemp("experts") / family
        tokenizer = family_tokenizer("qwen3")
        settings = {"vocab_size": len(tokenizer), "pad_token_id": None, "eos_token_id": 0, "bos_token_id": 0}
        model = small_model(family, max_position_embeddings=2048, **settings)
        for parameter in model.parameters():
            parameter.data = parameter.data.half().float()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return folder_of


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
@pytest.mark.slow
def test_a_mixture_of_experts_is_planned_trained_merged_with_proof_and_exported(
    expert_folder, tmp_path, capsys, family
):
    folder = expert_folder(family)
    common = ["--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "out"), "--max_new_tokens", "4"]
    common += ["--train_file", str(TRAIN_FILE), "--validation_file", str(VALIDATION_FILE), "--set=torch_dtype=float32"]
    train = ["--num_train_epochs", "1", "--lora_r", "2", "--learning_rate", "1e-2", "--set=lora_dropout=0.1"]
    assert main(["--task", "plan", *common, *train]) == 0
    assert main(["--task", "train", *common, *train]) == 0
    said = "".join(capsys.readouterr())
    assert "experts.gate_up_proj 4" in said
    assert "parameters in experts" in said
    assert "lora_dropout leaves the adapters of experts out" in said
    adapter = ["--lora_model_path", str(tmp_path / "out" / "lora_model")]
    assert main(["--task", "merge", *common, *adapter]) == 0
    proof = json.loads((tmp_path / "out" / "merged" / "proof.json").read_text(encoding="utf-8"))
    assert proof["proven"]
    assert proof["layers"] > 4 * 4  # experts too
    assert main(["--task", "export", "--format", "peft", *common, *adapter]) == 0
