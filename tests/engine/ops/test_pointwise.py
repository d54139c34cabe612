import copy

import pytest
import torch
from tolerances import assert_computes
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.llama import modeling_llama
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from lorakit.engine.ops.pointwise import RmsNorm, Rotary, SwiGlu, accelerate_pointwise, rotated_by


def numbers(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def test_the_norm_has_the_gradient_of_finite_differences():
    weight = torch.randn(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: RmsNorm.apply(x, weight, 1e-6), (numbers(2, 3, 6),))


def test_the_rotation_has_the_gradient_of_finite_differences():
    cos, sin = torch.randn(2, 1, 1, 3, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: Rotary.apply(x, cos, sin), (numbers(1, 2, 3, 8),))


def test_the_gated_product_has_the_gradient_of_finite_differences():
    assert torch.autograd.gradcheck(SwiGlu.apply, (numbers(3, 4), numbers(3, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_that_of_transformers(dtype):
    norm = Qwen3RMSNorm(16, eps=1e-5).to(dtype).requires_grad_(False)
    norm.weight.data.normal_()
    x = torch.randn(3, 16).mul_(100).to(dtype)
    found = RmsNorm.apply(x, norm.weight, 1e-5)
    assert found.dtype is dtype
    norm.double()
    assert_computes([found], lambda: [norm(x.double())], dtype)


def test_the_rotation_is_that_of_transformers():
    query, key = (numbers(1, 5, heads, 8, dtype=torch.float32).transpose(1, 2) for heads in (4, 2))
    cos, sin = torch.randn(2, 1, 5, 8)
    found = [rotated_by(x, cos, sin) for x in (query, key)]
    query, key, cos, sin = (tensor.double() for tensor in (query, key, cos[:, None], sin[:, None]))
    assert_computes(found, lambda: [x * cos + modeling_llama.rotate_half(x) * sin for x in (query, key)])


def model_of(**settings):
    config = LlamaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, **settings)
    config.intermediate_size = 24
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).requires_grad_(False)


def test_a_model_computes_the_same_with_them():
    model, ids = model_of(), torch.tensor([[1, 2, 3, 4]])
    plain = copy.deepcopy(model)
    assert accelerate_pointwise(model) == 2 * 3 + 1  # two norms and the MLP of each layer, and the last norm
    assert_computes([model(ids).logits], lambda: [plain(ids).logits])


def test_another_activation_keeps_its_own_mlp():
    model, ids = model_of(hidden_act="gelu"), torch.tensor([[1, 2, 3]])
    plain = copy.deepcopy(model)
    assert accelerate_pointwise(model) == 2 * 2 + 1
    assert_computes([model(ids).logits], lambda: [plain(ids).logits])


def test_a_trained_norm_gets_its_gradient():
    model = model_of()
    accelerate_pointwise(model)
    norm = model.model.norm.requires_grad_(True)
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert norm.weight.grad.abs().sum() > 0


def test_modules_of_other_kinds_are_left_alone():
    assert accelerate_pointwise(torch.nn.Sequential(torch.nn.RMSNorm(4), torch.nn.Linear(4, 4))) == 0
    assert Qwen3MLP.forward.__module__ == "transformers.models.qwen3.modeling_qwen3"
