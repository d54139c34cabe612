"""The halves of a decoder layer against finite differences, and what they keep for the backward pass."""

import pytest
import torch
from backends import backend_of_kind
from tolerances import assert_within, rounding_errors

from lorakit.engine.backends.operands import LoraFactors, Norm, Projection
from lorakit.engine.layout import PackedLayout
from lorakit.engine.ops.residual_blocks import Heads, add_attention, add_mlp

TOKENS, WIDTH, SIZE, HEADS, KEY_HEADS, INNER = 6, 8, 4, 2, 1, 5
ATTENTION = {"q": (HEADS * SIZE, WIDTH), "k": (KEY_HEADS * SIZE, WIDTH), "v": (KEY_HEADS * SIZE, WIDTH)}
ATTENTION["o"] = (WIDTH, HEADS * SIZE)
PLAIN = backend_of_kind(False)
MLP = {"gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER)}


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def numbers(*shape, dtype=torch.float64, size=1.0, around=0.0):
    """The same numbers in float64 as in float32."""
    return (around + size * torch.randn(*shape)).to(dtype)


def norm_of(width, dtype=torch.float64):
    return Norm(numbers(width, dtype=dtype, size=0.1, around=1.0), 1e-6)


def heads_of(tokens, has_norms=False, dtype=torch.float64):
    norms = (norm_of(SIZE, dtype), norm_of(SIZE, dtype)) if has_norms else (None, None)
    spans = PackedLayout((3, tokens - 4), prefix_len=1).spans
    return Heads(SIZE, 0.7, spans, *numbers(2, 1, 1, tokens, SIZE, dtype=dtype), *norms)


def projections_of(shapes, adapted, has_dropout=False, dtype=torch.float64, tokens=TOKENS):
    """Each with a bias, and the adapted ones with an adapter; also the factors of those."""
    projections, trained = [], []
    for name, (wide, narrow) in shapes.items():
        lora = None
        if name in adapted:
            mask = torch.rand(tokens, narrow) > 0.3 if has_dropout else None
            lora = LoraFactors(
                numbers(2, narrow, dtype=dtype).requires_grad_(),
                numbers(wide, 2, dtype=dtype).requires_grad_(),
                0.5,
                mask,
            )
            trained += [lora.a, lora.b]
        weight, bias = (numbers(*shape, dtype=dtype, size=1 / 3) for shape in ((wide, narrow), (wide,)))
        projections.append(Projection(weight, bias, lora))
    return projections, trained


@pytest.mark.every(7)
@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize("has_dropout", [False, True])
@pytest.mark.parametrize("adapted", ["qkvo", "qv", "o", ""])
def test_attention_has_the_gradients_of_finite_differences(has_norms, has_dropout, adapted):
    norm, heads = norm_of(WIDTH), heads_of(TOKENS, has_norms)
    projections, trained = projections_of(ATTENTION, adapted, has_dropout)
    x = numbers(TOKENS, WIDTH).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: add_attention(x, norm, heads, projections, PLAIN), (x, *trained))


@pytest.mark.every(3)
@pytest.mark.parametrize("has_dropout", [False, True])
@pytest.mark.parametrize("adapted", [("gate", "up", "down"), ("gate",), ("down",), ()])
def test_the_mlp_has_the_gradients_of_finite_differences(has_dropout, adapted):
    norm, (projections, trained) = norm_of(WIDTH), projections_of(MLP, adapted, has_dropout)
    x = numbers(TOKENS, WIDTH).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: add_mlp(x, norm, projections, PLAIN), (x, *trained))


@pytest.mark.parametrize("adapted", ["qkvo", "v"])
def test_the_first_layer_s_input_needs_no_gradient_for_its_adapters_to_have_theirs(adapted):
    norm, heads = norm_of(WIDTH), heads_of(TOKENS)
    projections, trained = projections_of(ATTENTION, adapted)
    fixed = numbers(TOKENS, WIDTH)
    wanted = torch.autograd.grad(
        add_attention(fixed.clone().requires_grad_(), norm, heads, projections, PLAIN).sum(), trained
    )
    found = torch.autograd.grad(add_attention(fixed, norm, heads, projections, PLAIN).sum(), trained)
    assert all(map(torch.equal, found, wanted))


def test_a_gradient_that_does_not_lie_in_one_piece_is_taken():
    norm, (projections, trained) = norm_of(WIDTH), projections_of(MLP, ("down",))
    y = add_mlp(numbers(TOKENS, WIDTH), norm, projections, PLAIN)
    toward = numbers(WIDTH, TOKENS)
    wanted = torch.autograd.grad(y, trained, toward.T.contiguous(), retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(y, trained, toward.T), wanted))


@pytest.mark.parametrize("has_norms", [False, True])
def test_pytorch_and_the_kernels_compute_what_float64_does(has_norms):
    def layer(dtype, backend, tokens=50):
        """Value and gradients of both halves, of the same numbers in any format."""
        torch.manual_seed(0)
        norms, heads = (norm_of(WIDTH, dtype), norm_of(WIDTH, dtype)), heads_of(tokens, has_norms, dtype)
        attention, of_attention = projections_of(ATTENTION, "qkvo", True, dtype, tokens)
        mlp, of_mlp = projections_of(MLP, tuple(MLP), True, dtype, tokens)
        x, toward = numbers(tokens, WIDTH, dtype=dtype).requires_grad_(), numbers(tokens, WIDTH, dtype=dtype)

        def compute():
            y = add_mlp(add_attention(x, norms[0], heads, attention, backend), norms[1], mlp, backend)
            return [y, *torch.autograd.grad(y, [x, *of_attention, *of_mlp], toward)]

        return compute

    exact, allowed = rounding_errors(layer(torch.float64, PLAIN), torch.float32)
    for backend in (PLAIN, backend_of_kind(True)):
        assert_within(layer(torch.float32, backend)(), exact, allowed)


def kept_values(function, *arguments):
    """How many values a function keeps for the backward pass, its parameters and its input left out."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = function(*arguments)
    given = {tensor.data_ptr() for one in arguments[-2] for tensor in one.tensors() if tensor is not None}
    given.add(arguments[0].data_ptr())
    return sum(tensor.numel() for pointer, tensor in kept.items() if pointer not in given), y


def test_norms_and_gated_products_are_not_kept():
    dtype, by = torch.float32, backend_of_kind(True)
    x, norm = numbers(TOKENS, WIDTH, dtype=dtype), norm_of(WIDTH, dtype)
    mlp, _ = projections_of(MLP, ("gate", "down"), dtype=dtype)
    # gate and up; the inverse root of a token; what two adapters make of it
    assert kept_values(add_mlp, x, norm, mlp, by)[0] == TOKENS * (2 * INNER + 1 + 2 * 2)
    attention, _ = projections_of(ATTENTION, "qv", dtype=dtype)
    # queries, keys and values; the inverse root; two adapters; what each query's probabilities are divided by
    wanted = TOKENS * ((HEADS + 2 * KEY_HEADS) * SIZE + 1 + 2 * 2 + HEADS)
    assert kept_values(add_attention, x, norm, heads_of(TOKENS, dtype=dtype), attention, by)[0] == wanted
