import pytest
import torch
from peft import LoraConfig, get_peft_model

from lorakit.engine.lora_linear import LoraLinear, _keep_mask, accelerate_lora


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("has_dropout", [False, True])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_gradients_are_those_of_finite_differences(has_bias, has_dropout, is_transposed):
    torch.manual_seed(0)
    x, a, b = (double(*shape).requires_grad_() for shape in ((5, 7), (2, 7), (6, 2)))
    weight = double(7, 6).T if is_transposed else double(6, 7)
    bias = double(6) if has_bias else None
    mask = torch.rand(5, 7) > 0.3 if has_dropout else None
    assert torch.autograd.gradcheck(lambda x, a, b: LoraLinear.apply(x, weight, bias, a, b, 0.7, mask), (x, a, b))


def test_the_value_is_the_formula_s():
    torch.manual_seed(0)
    x, weight, bias, a, b = double(5, 7), double(6, 7), double(6), double(2, 7), double(6, 2)
    mask = torch.rand(5, 7) > 0.3
    wanted = x @ weight.T + bias + 0.7 * (x * mask) @ a.T @ b.T
    torch.testing.assert_close(LoraLinear.apply(x, weight, bias, a, b, 0.7, mask), wanted)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_the_dropout_mask_keeps_the_right_share(probability):
    torch.manual_seed(0)
    kept = _keep_mask(torch.empty(999, 1001), probability).double().mean().item()
    # four standard deviations of the mean of a million draws
    assert kept == pytest.approx(1 - probability, abs=4 * (probability * (1 - probability) / 999_999) ** 0.5)


def test_masks_are_drawn_anew_and_repeat_with_the_seed():
    x = torch.empty(50, 50)
    torch.manual_seed(5)
    first, second = _keep_mask(x, 0.5), _keep_mask(x, 0.5)
    torch.manual_seed(5)
    assert not torch.equal(first, second)
    assert torch.equal(_keep_mask(x, 0.5), first)


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
    x = torch.randn(3, 16)
    wanted = model(x)
    accelerate_lora(model)
    torch.testing.assert_close(model(x), wanted)


def test_in_training_dropout_is_on_and_unbiased():
    model = adapted(lora_dropout=0.25)
    accelerate_lora(model)
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
    with_adapter = model(x)
    accelerate_lora(model)
    with model.disable_adapter():
        assert torch.equal(model(x), without)
    model.merge_adapter()
    torch.testing.assert_close(model(x), with_adapter)
    model.unmerge_adapter()
    torch.testing.assert_close(model(x), with_adapter)


def test_leading_dimensions_are_kept():
    model = adapted().eval()
    accelerate_lora(model)
    assert model(torch.randn(2, 3, 16)).shape == (2, 3, 8)


def test_adapter_parameters_stay_float32_over_a_bfloat16_base():
    torch.manual_seed(0)
    model = get_peft_model(Net().to(torch.bfloat16), LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False))
    accelerate_lora(model)
    output = model(torch.randn(3, 16, dtype=torch.bfloat16))
    output.sum().backward()
    assert output.dtype is torch.bfloat16
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert {parameter.grad.dtype for parameter in trained} == {torch.float32}
