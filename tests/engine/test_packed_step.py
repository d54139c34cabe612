"""Packed equals one by one: loss and every LoRA gradient against plain transformers + PEFT in float32."""

from functools import cache

import pytest
import torch
from backends import accelerated
from conftest import FAMILIES
from peft import LoraConfig, get_peft_model
from plain import adapted, gradients, reference
from tolerances import assert_computes
from trained import sequences
from transformers import AutoModelForCausalLM, Gemma2Config, Lfm2Config, MistralConfig, Qwen2Config

from lorakit.data_processing.tokens.packing import pack, pack_under_budget
from lorakit.engine import PACKED, layout, summed_loss


def assert_packed_is_one_by_one(make):
    """Compare a model with its twin, both made by ``make``; return the gradients."""
    rows = sequences(beginning=9)
    wanted = reference(make(), rows)
    model = accelerated(make())
    loss = summed_loss(model, pack(rows, is_beginning_shared=True))
    loss.backward()
    wanted.assert_met_by(loss, gradients(model))
    return gradients(model)


@pytest.fixture(scope="module")
def case_of(model_folder):
    """Return a function from a family and the tokens that all rows begin with to its model's folder, rows, and what
    these have one by one.
    """

    @cache
    def case(family, beginning):
        folder, rows = model_folder(family), sequences(beginning)
        return folder, rows, reference(adapted(folder), rows)

    return case


@pytest.mark.every(23)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [20, 10_000])
@pytest.mark.parametrize("attention", ["sdpa", PACKED, "computed anew", "own kernels"])
@pytest.mark.parametrize("beginning", [0, 9])
def test_a_packed_step_has_the_loss_and_gradients_of_its_rows_one_by_one(
    case_of, monkeypatch, family, budget, attention, beginning
):
    if attention == "computed anew":
        monkeypatch.setattr(layout, "_LONGEST_KEPT_SEQUENCE", 10)
    folder, rows, wanted = case_of(family, beginning)
    model = adapted(folder, "sdpa" if attention == "sdpa" else PACKED)
    accelerated(model, is_native=attention == "own kernels")
    batches = list(pack_under_budget(rows, budget, is_beginning_shared=True))
    assert {batch.shared_tokens for batch in batches if batch.rows > 1} <= {beginning}
    loss = sum(summed_loss(model, batch) for batch in batches)
    loss.backward()
    wanted.assert_met_by(loss, gradients(model))


OTHER_FAMILIES = {
    "a convolution across rows": (Lfm2Config, {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}),
    "a window shorter than a row": (MistralConfig, {"sliding_window": 8}),
    "soft-capped logits and a window": (Gemma2Config, {"sliding_window": 8, "final_logit_softcapping": 5.0}),
    "a grouped family like Llama": (Qwen2Config, {}),
}


@pytest.mark.every(0)
@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_models_of_other_kinds_are_right_or_computed_row_by_row(name):
    kind, settings = OTHER_FAMILIES[name]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = kind(vocab_size=700, intermediate_size=48, pad_token_id=None, **sizes, **settings)

    def made():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        torch.manual_seed(3)
        lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        return get_peft_model(model, lora).train()

    assert_packed_is_one_by_one(made)


@pytest.mark.every(5)
@pytest.mark.parametrize(
    "lora", [{"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}], ids=lambda settings: next(iter(settings))
)
def test_variants_of_lora_keep_their_gradients(model_folder, lora):
    assert_packed_is_one_by_one(lambda: adapted(model_folder("llama"), **lora))


def test_a_trained_head_takes_the_plain_loss(model_folder):
    lora = {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}
    found = assert_packed_is_one_by_one(lambda: adapted(model_folder("llama"), **lora))
    assert any("lm_head" in name for name in found)


def test_label_smoothing_is_torch_s_own(model_folder):
    model = adapted(model_folder("llama"))
    [row] = sequences()[:1]
    ids, labels = torch.tensor([list(row.input_ids)]), torch.tensor([list(row.labels)])

    def smoothed():
        logits = model(input_ids=ids).logits[0, :-1]
        return [torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum", label_smoothing=0.1)]

    assert_computes([summed_loss(model, pack([row]), label_smoothing=0.1)], smoothed)


def test_the_loss_leaves_the_model_as_it_was(model_folder):
    model = adapted(model_folder("llama"))
    ids = torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids).logits
    summed_loss(model, pack(sequences()))
    assert torch.equal(model(input_ids=ids).logits, before)
