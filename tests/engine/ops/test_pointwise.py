import pytest
import torch
from backends import backend_of_kind
from tolerances import assert_computes
from transformers.models.llama import modeling_llama
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from lorakit.engine.ops.pointwise import RmsNorm, Rope, SwiGlu, rope

PLAIN = backend_of_kind(False)


def numbers(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def test_the_norm_has_the_gradient_of_finite_differences():
    weight = torch.randn(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: RmsNorm.apply(x, weight, 1e-6, PLAIN), (numbers(2, 3, 6),))


def test_the_rotation_has_the_gradient_of_finite_differences():
    cos, sin = torch.randn(2, 1, 1, 3, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: Rope.apply(x, cos, sin, PLAIN), (numbers(1, 2, 3, 8),))


def test_the_gated_product_has_the_gradient_of_finite_differences():
    assert torch.autograd.gradcheck(lambda *given: SwiGlu.apply(*given, PLAIN), (numbers(3, 4), numbers(3, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_that_of_transformers(dtype):
    norm = Qwen3RMSNorm(16, eps=1e-5).to(dtype).requires_grad_(False)
    norm.weight.data.normal_()
    x = torch.randn(3, 16).mul_(100).to(dtype)
    found = RmsNorm.apply(x, norm.weight, 1e-5, PLAIN)
    assert found.dtype is dtype
    norm.double()
    assert_computes([found], lambda: [norm(x.double())], dtype)


def test_the_rotation_is_that_of_transformers():
    query, key = (numbers(1, 5, heads, 8, dtype=torch.float32).transpose(1, 2) for heads in (4, 2))
    cos, sin = torch.randn(2, 1, 5, 8)
    found = [rope(x, cos, sin, PLAIN) for x in (query, key)]
    query, key, cos, sin = (tensor.double() for tensor in (query, key, cos[:, None], sin[:, None]))
    assert_computes(found, lambda: [x * cos + modeling_llama.rotate_half(x) * sin for x in (query, key)])
