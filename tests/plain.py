"""The same rows through plain transformers + PEFT in float32: what the engine is held against."""

from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from tolerances import assert_within, rounding_errors
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


def nats(model, row):
    """The row's loss by the model's own code, summed over its targets."""
    ids, labels = torch.tensor([list(row.input_ids)]), torch.tensor([list(row.labels)])
    return model(input_ids=ids, labels=labels).loss * row.targets


def loss_and_gradients(model, step):
    """What a step computes, a function that returns its loss."""
    model.zero_grad()
    loss = step()
    loss.backward()
    return loss.item(), gradients(model)


@dataclass(frozen=True)
class Wanted:
    """A step's loss and gradients, and how far from them each may be in float32."""

    loss: float
    values: dict[str, torch.Tensor]
    allowed: dict[str, torch.Tensor]

    def assert_met_by(self, loss, gradients):
        found = {"loss": torch.as_tensor(loss)} | gradients
        assert set(found) == set(self.values)
        for name, value in self.values.items():
            assert value.any(), f"{name}: nothing is learnt"
            assert_within([found[name]], [value], [self.allowed[name]], name)


def wanted_of(model, step):
    """Compute a step plainly, some times."""

    def compute():
        loss, found = loss_and_gradients(model, step)
        return [torch.tensor(loss), *found.values()]

    exact, allowed = rounding_errors(compute, torch.float32, repetitions=2)  # of each kind there are many numbers
    names = ["loss", *gradients(model)]
    return Wanted(exact[0].item(), dict(zip(names, exact, strict=True)), dict(zip(names, allowed, strict=True)))


def reference(model, rows, nats=nats):
    """The same rows, unpacked, through the model's own code."""
    return wanted_of(model, lambda: sum(nats(model, row) for row in rows))
