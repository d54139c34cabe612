"""Adapters with an effect, made by plain PEFT, and what plain PEFT computes with them."""

import json

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

ROWS = [{"text": text, "target": "早睡早起。"} for text in ("怎样睡好？", "怎样吃好？", "Tea?")]
IDS = torch.tensor([[5, 6, 7, 8, 90, 91]])


def plain_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def save_random_adapter(base, folder, seed=1, size=0.1, **lora):
    """Write an adapter of which no matrix is zero; return its folder."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False} | lora
    model = get_peft_model(plain_model(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            parameter.data = size * torch.randn_like(parameter)
    model.save_pretrained(str(folder))
    return folder


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def plain_logits(base, adapters=()):
    """Logits of the base with the sum of adapters given as (folder, weight), computed matrix by matrix."""
    from peft import PeftModel

    model = plain_model(base)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for folder, weight in adapters:
        merged = PeftModel.from_pretrained(plain_model(base), str(folder)).merge_and_unload()
        with torch.no_grad():
            for name, parameter in merged.named_parameters():
                model.get_parameter(name).add_(parameter - before[name], alpha=weight)
    return logits_of(model)


def proof_of(folder):
    """What the proof of a merge or an export says."""
    return json.loads((folder / "proof.json").read_text())
