import copy

import pytest
import torch
from backends import accelerated, backend_of_kind
from peft import LoraConfig, get_peft_model
from tolerances import assert_computes, assert_within, rounding_errors

from lorakit.engine.layers import lora_linear
from lorakit.engine.ops.row_dropout import DropoutPlace

CPU = torch.device("cpu")
PLAIN = backend_of_kind(False)


def apply_linears(x, layers):
    return lora_linear.apply_linears(x, layers, PLAIN)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_the_dropout_mask_keeps_the_right_share(probability):
    torch.manual_seed(0)
    kept = DropoutPlace().keep_mask((999, 1001), probability, CPU).double().mean().item()
    # four standard deviations of the mean of a million draws
    assert kept == pytest.approx(1 - probability, abs=4 * (probability * (1 - probability) / 999_999) ** 0.5)


def test_masks_are_drawn_anew_and_repeat_with_the_seed():
    torch.manual_seed(5)
    first, second = DropoutPlace().keep_mask((50, 50), 0.5, CPU), DropoutPlace().keep_mask((50, 50), 0.5, CPU)
    torch.manual_seed(5)
    assert not torch.equal(first, second)
    assert torch.equal(DropoutPlace().keep_mask((50, 50), 0.5, CPU), first)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 8)

    def forward(self, x):
        return self.layer(x)


def adapted(**lora):
    torch.manual_seed(0)
    return get_peft_model(Net(), LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False, **lora))


def test_in_evaluation_dropout_is_off():
    model = adapted(lora_dropout=0.5).eval()
    x, plain = torch.randn(3, 16), copy.deepcopy(model).double()
    accelerated(model)
    assert_computes([model(x)], lambda: [plain(x.double())])


def test_in_training_dropout_is_on_and_unbiased():
    model = adapted(lora_dropout=0.25)
    accelerated(model)
    x = torch.ones(1, 16)
    wanted = model.eval()(x)
    torch.manual_seed(1)
    outputs = torch.stack([model.train()(x) for _ in range(4000)])
    assert outputs.std(0).min() > 0
    torch.testing.assert_close(outputs.mean(0), wanted, atol=0.15, rtol=0)


def test_a_disabled_or_merged_adapter_computes_as_peft_does():
    model = adapted().eval()
    x = torch.randn(3, 16)
    with model.disable_adapter():
        without = model(x)
    plain = copy.deepcopy(model).double()
    accelerated(model)
    with model.disable_adapter():
        assert torch.equal(model(x), without)
    model.merge_adapter()
    assert_computes([model(x)], lambda: [plain(x.double())])
    model.unmerge_adapter()
    assert_computes([model(x)], lambda: [plain(x.double())])


def test_leading_dimensions_are_kept():
    model = adapted().eval()
    accelerated(model)
    assert model(torch.randn(2, 3, 16)).shape == (2, 3, 8)


def test_adapter_parameters_stay_float32_over_a_bfloat16_base():
    torch.manual_seed(0)
    model = get_peft_model(Net().to(torch.bfloat16), LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False))
    accelerated(model)
    output = model(torch.randn(3, 16, dtype=torch.bfloat16))
    output.sum().backward()
    assert output.dtype is torch.bfloat16
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert {parameter.grad.dtype for parameter in trained} == {torch.float32}


class Three(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (torch.nn.Linear(16, width) for width in (8, 4, 4))


def three_layers(**lora):
    torch.manual_seed(0)
    lora = {"target_modules": ["first", "third"], "init_lora_weights": False, "r": 2} | lora
    model = get_peft_model(Three(), LoraConfig(**lora))
    base = model.get_base_model()
    return model, (base.first, base.second, base.third)


def outputs_and_gradients(model, outputs):
    torch.manual_seed(1)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    loss = sum((output * torch.randn(output.shape)).sum() for output in outputs)
    return [*outputs, *torch.autograd.grad(loss, list(trained.values()))]


def watch(layers):
    layers[1].register_forward_hook(lambda *_: None)


def train_bias(layers):
    layers[1].bias.requires_grad_(True)


STATES = {
    "together": ({}, lambda layers: None),
    "one of them watched": ({}, watch),
    "one of them trained": ({}, train_bias),
    "one of another kind": ({"use_dora": True, "target_modules": ["first"]}, lambda layers: None),
    "no adapter at all on two": ({"target_modules": ["third"]}, lambda layers: None),
}


@pytest.mark.parametrize("state", STATES)
def test_layers_of_one_input_compute_what_each_of_them_does(state):
    lora, change = STATES[state]
    model, layers = three_layers(**lora)
    change(layers)
    x = torch.randn(2, 3, 16)
    exact = rounding_errors(lambda: outputs_and_gradients(model, [layer(x) for layer in layers]), torch.float32)
    accelerated(model)
    assert_within(outputs_and_gradients(model, apply_linears(x, layers)), *exact)


def test_a_layer_that_is_watched_is_called():
    model, layers = three_layers()
    accelerated(model)
    seen = []
    layers[2].register_forward_hook(lambda *_: seen.append(1))
    apply_linears(torch.randn(3, 16), layers)
    assert seen == [1]
