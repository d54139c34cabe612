"""The same rows through plain transformers + PEFT in float32: what the engine is held against."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lorakit.engine import register_packed_attention


def adapted(folder, attention="sdpa", prepare=lambda base: None, **lora):
    register_packed_attention()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    prepare(model)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False} | lora
    torch.manual_seed(3)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.half().float()  # as PEFT rounds them beside a weight in float16
    return model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def reference(model, rows):
    """The same rows, unpacked, through the model's own loss."""
    total = torch.zeros(())
    for row in rows:
        ids, labels = torch.tensor([list(row.input_ids)]), torch.tensor([list(row.labels)])
        total = total + model(input_ids=ids, labels=labels).loss * row.targets
    total.backward()
    return total.item(), gradients(model)


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        scale = gradient.abs().max()
        assert scale > 0, f"{name}: nothing is learnt"
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * scale.item(), msg=name)
