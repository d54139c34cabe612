import pytest
import torch
from backends import backend_of_kind
from tolerances import assert_computes
from torch.nn.functional import scaled_dot_product_attention

from lorakit.engine import layout
from lorakit.engine.backends.operands import UNLIMITED, Limits
from lorakit.engine.layout import PackedLayout
from lorakit.engine.ops.attention import PackedAttention


def attend(query, key, value, limits=UNLIMITED):
    """One sequence, of whose last tokens there are queries: [1, heads, tokens, size]."""
    asked, tokens = query.shape[2], key.shape[2]
    spans = PackedLayout((tokens,), tails=(asked,)).tail_spans
    return PackedAttention.apply(query, key, value, spans, 0.5, backend_of_kind(False), limits).transpose(1, 2)


def tensors(dtype, tokens=5, heads=6, key_heads=2, size=4):
    torch.manual_seed(0)
    shapes = [(1, count, tokens, size) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.fixture(params=["one tile", "tiles", "tiles computed anew"])
def _tiles(request, monkeypatch):
    if request.param != "one tile":
        monkeypatch.setattr(layout, "TILE_TOKENS", 2)
    if request.param == "tiles computed anew":
        monkeypatch.setattr(layout, "_LONGEST_KEPT_SEQUENCE", 0)


@pytest.mark.every(3)
@pytest.mark.parametrize("key_heads", [6, 2, 1])
@pytest.mark.usefixtures("_tiles")
def test_the_gradient_is_that_of_finite_differences(key_heads):
    inputs = tensors(torch.float64, key_heads=key_heads)
    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("tokens", [1, 2, 33, 128, 129, 300])
def test_value_and_gradients_are_those_of_torch_s_causal_attention(tokens):
    inputs = tensors(torch.float64, tokens)
    wanted = scaled_dot_product_attention(*inputs, is_causal=True, scale=0.5, enable_gqa=True)
    found = attend(*inputs)
    torch.testing.assert_close(found, wanted)
    toward = torch.randn_like(wanted)
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, toward), torch.autograd.grad(wanted, inputs, toward), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.usefixtures("_tiles")
def test_the_last_queries_alone_have_the_gradient_of_finite_differences():
    query, key, value = tensors(torch.float64)
    last = query[:, :, 2:].detach().requires_grad_()
    torch.testing.assert_close(attend(last, key, value), attend(query, key, value)[:, :, 2:])
    assert torch.autograd.gradcheck(attend, (last, key, value))


def by_definition(query, key, value, limits):
    """Every score by itself, with a loop over queries and heads: [1, heads, tokens, size]."""
    group, heads = query.shape[1] // key.shape[1], []
    for head in range(query.shape[1]):
        rows = []
        for place in range(query.shape[2]):
            first = max(place + 1 - (limits.window or place + 1), 0)
            first = max(first, place // limits.chunk * limits.chunk) if limits.chunk else first
            scores = 0.5 * key[0, head // group, first : place + 1] @ query[0, head, place]
            scores = scores if limits.soft_cap is None else limits.soft_cap * torch.tanh(scores / limits.soft_cap)
            sinks = [] if limits.sinks is None else [limits.sinks[head : head + 1]]
            shares = torch.softmax(torch.cat([scores, *sinks]), 0)[: len(scores)]
            rows.append(shares @ value[0, head // group, first : place + 1])
        heads.append(torch.stack(rows))
    return torch.stack(heads)[None]


@pytest.mark.every(5)
@pytest.mark.parametrize(
    "limits",
    [
        Limits(window=3),
        Limits(chunk=4),
        Limits(soft_cap=0.7),
        Limits(sinks=torch.tensor([0.3, -2.0, 9.0, 0.0, 1.0, 2.0]).double()),
        Limits(4, 6, 1.5, torch.ones(6).double()),
    ],
)
@pytest.mark.usefixtures("_tiles")
def test_windows_chunks_soft_caps_and_sinks_are_those_of_their_definition(limits):
    inputs = tensors(torch.float64, 9)
    found = attend(*inputs, limits)
    wanted = by_definition(*inputs, limits)
    torch.testing.assert_close(found, wanted)
    toward = torch.randn_like(wanted)
    mine, theirs = (torch.autograd.grad(one, inputs, toward) for one in (found, wanted))
    torch.testing.assert_close(mine, theirs)
    last = inputs[0][:, :, 5:].detach().requires_grad_()
    torch.testing.assert_close(attend(last, *inputs[1:], limits), wanted[:, :, 5:])
    assert torch.autograd.gradcheck(lambda *given: attend(*given, limits), (last, *inputs[1:]))


def test_bfloat16_is_rounded_and_nothing_else():
    query, key, value = tensors(torch.float32, tokens=60)
    low = [tensor.detach().bfloat16() for tensor in (query, key, value)]
    assert_computes([attend(*low)], lambda: [attend(*(tensor.double() for tensor in low))], torch.bfloat16)
