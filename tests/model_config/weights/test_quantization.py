"""A base in 4 or 8 bits: the adapter's gradients are those over the weights that the bits stand for."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lorakit.config import Config
from lorakit.data_processing import EncodedExample
from lorakit.data_processing.tokens.packing import pack
from lorakit.engine import DtypeChoice, accelerate, summed_loss
from lorakit.errors import SettingsError
from lorakit.model_config import load_model, load_tokenizer, locate_model, quantization_of

CPU = torch.device("cpu")
functional = pytest.importorskip("bitsandbytes.functional")


def with_adapter(model):
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora).train()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in sorted(adapted.named_parameters()):
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return adapted


def dequantised(layer):
    weight = layer.weight
    if weight.dtype is torch.int8:
        return functional.int8_vectorwise_dequant(weight.data, weight.SCB)
    return functional.dequantize_4bit(weight.data, weight.quant_state).float()


def gradients(model, row):
    loss = summed_loss(model, pack([row, row]))
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_gradients_are_those_over_the_dequantised_weights(model_folder, family, kind):
    source = locate_model(str(model_folder(family)), "huggingface")
    bundle = load_model(source, load_tokenizer(source), DtypeChoice(torch.float32, "test"), CPU, kind)
    plain = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32)
    quantised = {name: m for name, m in bundle.model.named_modules() if "bitsandbytes" in type(m).__module__}
    assert quantised
    for name, layer in quantised.items():
        plain.get_submodule(name).weight.data = dequantised(layer)
    ids = tuple(range(5, 25))
    row = EncodedExample(ids, (-100,) * 8 + ids[8:], "row")
    wanted_loss, wanted = gradients(with_adapter(plain), row)
    adapted = with_adapter(bundle.model)
    accelerate(adapted)
    loss, found = gradients(adapted, row)
    # LLM.int8 rounds the activations as well
    loss_tolerance, tolerance = (1e-5, 1e-4) if kind == "4bit" else (2e-2, 0.2)
    assert loss == pytest.approx(wanted_loss, rel=loss_tolerance)
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        scale = gradient.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(found[name], gradient, rtol=tolerance, atol=tolerance * scale, msg=name)


def test_one_of_the_two_may_be_chosen():
    assert quantization_of(Config()) is None
    assert quantization_of(Config(load_in_4bit=True)) == "4bit"
    with pytest.raises(SettingsError, match="both set"):
        quantization_of(Config(load_in_4bit=True, load_in_8bit=True))


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="needs bitsandbytes"):
        quantization_of(Config(load_in_8bit=True))
