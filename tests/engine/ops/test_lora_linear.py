"""The projections of one input against finite differences, and their values against the formula."""

import pytest
import torch
from backends import backend_of_kind

from lorakit.engine.backends.operands import LoraFactors, Projection
from lorakit.engine.ops.lora_linear import project as project_by

PLAIN = backend_of_kind(False)


def project(x, projections):
    return project_by(x, projections, PLAIN)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("has_dropout", [False, True])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_gradients_are_those_of_finite_differences(has_bias, has_dropout, is_transposed):
    x, a, b = (double(*shape).requires_grad_() for shape in ((5, 7), (2, 7), (6, 2)))
    weight = double(7, 6).T if is_transposed else double(6, 7)
    bias = double(6) if has_bias else None
    mask = torch.rand(5, 7) > 0.3 if has_dropout else None

    def outputs(x, a, b):
        return project(x, [Projection(weight, bias, LoraFactors(a, b, 0.7, mask))])

    assert torch.autograd.gradcheck(outputs, (x, a, b))


@pytest.mark.parametrize("has_dropout", [False, True])
@pytest.mark.parametrize("adapted", [(0, 2), (1,), ()])
def test_gradients_of_several_are_those_of_finite_differences(has_dropout, adapted):
    weights = [double(width, 7) for width in (6, 3, 3)]
    masks = [torch.rand(5, 7) > 0.3 if has_dropout else None for _ in weights]
    x = double(5, 7).requires_grad_()
    factors = [double(*shape).requires_grad_() for place in adapted for shape in ((2, 7), (len(weights[place]), 2))]

    def outputs(x, *factors):
        pairs = dict(zip(adapted, zip(factors[::2], factors[1::2], strict=True), strict=True))
        return project(
            x,
            [
                Projection(weight, lora=LoraFactors(*pairs[place], 0.7, masks[place]) if place in pairs else None)
                for place, weight in enumerate(weights)
            ],
        )

    assert torch.autograd.gradcheck(outputs, (x, *factors))


@pytest.mark.parametrize("is_trained", [False, True])
def test_the_value_is_the_formula_s(is_trained):
    x, weight, bias, a, b = double(5, 7), double(6, 7), double(6), double(2, 7), double(6, 2)
    mask = torch.rand(5, 7) > 0.3
    wanted = x @ weight.T + bias + 0.7 * (x * mask) @ a.T @ b.T
    with torch.set_grad_enabled(is_trained):
        [found] = project(x, [Projection(weight, bias, LoraFactors(a, b, 0.7, mask))])
    torch.testing.assert_close(found, wanted)


def test_an_output_that_nothing_depends_on_has_no_gradients():
    x = double(5, 7).requires_grad_()
    of_one, of_other = (LoraFactors(double(2, 7).requires_grad_(), double(6, 2).requires_grad_(), 1.0) for _ in "ab")
    one, _ = project(x, [Projection(double(6, 7), lora=lora) for lora in (of_one, of_other)])
    one.sum().backward()
    assert of_other.a.grad is of_other.b.grad is None
    assert of_one.a.grad.abs().sum() > 0


def test_without_an_adapter_the_input_is_not_kept():
    kept = []
    x, weight = torch.randn(5, 7, requires_grad=True), torch.randn(6, 7)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        project(x, [Projection(weight)])
    assert {tuple(tensor.shape) for tensor in kept} == {(6, 7)}
