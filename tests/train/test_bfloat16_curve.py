"""In bfloat16 the engine's loss curve stays with that of plain transformers + PEFT on padded rows."""

import pytest
import torch
from backends import accelerated
from conftest import SOME_FAMILIES
from peft import LoraConfig, get_peft_model
from trained import sequences
from transformers import AutoModelForCausalLM

from lorakit.data_processing.tokens.packing import pack
from lorakit.engine import PACKED, register_packed_attention, summed_loss

STEPS = 30


def model_and_optimizer(folder, attention):
    register_packed_attention()
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=attention)
    torch.manual_seed(3)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.dtype is torch.float32 for parameter in trained)
    return model, torch.optim.AdamW(trained, lr=5e-3)


def plain_curve(folder, rows):
    model, optimizer = model_and_optimizer(folder, "sdpa")
    longest = max(len(row.input_ids) for row in rows)

    def padded(values, filling):
        return torch.tensor([[*list(value), *[filling] * (longest - len(value))] for value in values])

    batch = {
        "input_ids": padded([row.input_ids for row in rows], 0),
        "attention_mask": padded([[1] * len(row.input_ids) for row in rows], 0),
        "labels": padded([row.labels for row in rows], -100),
    }
    for _ in range(STEPS):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def packed_curve(folder, rows, is_native):
    model, optimizer = model_and_optimizer(folder, PACKED)
    accelerated(model, is_native, torch.bfloat16)
    batch = pack(rows)
    for _ in range(STEPS):
        loss = summed_loss(model, batch) / batch.targets
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


@pytest.mark.every(2)
@pytest.mark.parametrize("family", SOME_FAMILIES)
@pytest.mark.parametrize(
    "is_native", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["own kernels", "PyTorch"]
)
def test_thirty_steps_in_bfloat16_are_within_a_hundredth_of_the_plain_path(model_folder, family, is_native):
    rows = sequences()
    plain = list(plain_curve(model_folder(family), rows))
    packed = list(packed_curve(model_folder(family), rows, is_native))
    assert plain[-1] < 0.8 * plain[0]
    assert packed == pytest.approx(plain, rel=0.01)
