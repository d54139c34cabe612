import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lorakit.engine.attention import RowAttention, packed_attention


def tensors(dtype, tokens=5, heads=6, key_heads=2, size=4):
    torch.manual_seed(0)
    shapes = [(1, count, tokens, size) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("key_heads", [6, 2, 1])
def test_the_gradient_is_that_of_finite_differences(key_heads):
    inputs = tensors(torch.float64, key_heads=key_heads)
    assert torch.autograd.gradcheck(lambda q, k, v: RowAttention.apply(q, k, v, 0.5), inputs)


@pytest.mark.parametrize("tokens", [1, 2, 33])
def test_the_value_is_torch_s_causal_attention(tokens):
    query, key, value = tensors(torch.float64, tokens)
    wanted = scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.5, enable_gqa=True)
    torch.testing.assert_close(RowAttention.apply(query, key, value, 0.5), wanted)


def test_rows_of_a_packed_row_do_not_see_each_other():
    query, key, value = tensors(torch.float32, tokens=9)
    output, _ = packed_attention(torch.nn.Identity(), query, key, value, None, scaling=0.5, row_lengths=[4, 5])
    alone = [
        RowAttention.apply(query[:, :, part], key[:, :, part], value[:, :, part], 0.5)
        for part in (slice(0, 4), slice(4, 9))
    ]
    torch.testing.assert_close(output, torch.cat(alone, 2).transpose(1, 2))


def test_bfloat16_stays_close_to_float32():
    query, key, value = tensors(torch.float32, tokens=60)
    wanted = RowAttention.apply(query, key, value, 0.5)
    low = RowAttention.apply(*(tensor.bfloat16() for tensor in (query, key, value)), 0.5)
    torch.testing.assert_close(low.float(), wanted, atol=0.05, rtol=0.05)
