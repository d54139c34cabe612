"""How far a result may be from the exact one: derived from number format and terms, never from what was seen to pass.

One operation is off by u |result| for rounding it, and by v times the sizes of its terms for adding them up, where u is
the unit roundoff of the format that holds the result and v that of the one that computes, float32 or wider. Of n terms
the errors add up to sqrt(n) v times the sum of their sizes, beyond which they are unlikely to go (Higham and Mary 2019,
"A New Approach to Probabilistic Rounding Error Analysis"). How these errors grow on their way to the end, through
cancellation above all, is not guessed but seen: the exact computation is repeated with every operation off by that
much, up or down by chance (Monte Carlo arithmetic: Parker 1997). What a processor computes may be off by four standard
deviations of these repetitions, whatever the order in which it adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

_DEVIATIONS = 4
_REPETITIONS = 4
# Of an exponential, a quotient, a root; 5 are the most that lorakit's own exponential takes.
_ROUNDINGS = 8
_ROUNDED_ONCE = {"add", "sub", "rsub", "mul", "neg", "copy", "clone", "_to_copy", "cat", "stack", "index_select"}


def unit_roundoff(dtype: torch.dtype) -> float:
    """The largest relative error of rounding to the nearest."""
    return torch.finfo(dtype).eps / 2


def _of_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return left.shape[-1] ** 0.5 * (left.abs() @ right.abs())


def _of_sum_and_product(
    total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    sizes = abs(alpha) * _of_product(left, right)
    return sizes + abs(beta) * total.abs() if beta else sizes  # else it may be memory that nobody has written


def _of_sum(x: torch.Tensor, *arguments: object, dtype: torch.dtype | None = None) -> torch.Tensor:
    sizes = torch.ops.aten.sum(x.abs(), *arguments, dtype=dtype)
    return sizes * (x.numel() / max(sizes.numel(), 1)) ** 0.5


def _of_mean(x: torch.Tensor, *arguments: object, dtype: torch.dtype | None = None) -> torch.Tensor:
    sizes = torch.ops.aten.mean(x.abs(), *arguments, dtype=dtype)
    return sizes * (x.numel() / max(sizes.numel(), 1)) ** 0.5


def _of_softmax(x: torch.Tensor, dim: int, *_: object) -> torch.Tensor:
    """e^(x - m) is off by what x - m is."""
    sizes = torch.where(x.isfinite(), x.abs(), 0)
    return torch.softmax(x, dim) * (_ROUNDINGS + x.shape[dim] ** 0.5 + sizes + sizes.amax(dim, keepdim=True))


def _of_log_softmax(x: torch.Tensor, dim: int, *_: object) -> torch.Tensor:
    return x.abs() + x.abs().amax(dim, keepdim=True) + x.shape[dim] ** 0.5


def _of_softmax_backward(grad: torch.Tensor, value: torch.Tensor, dim: int, *_: object) -> torch.Tensor:
    return value * (grad.abs() + value.shape[dim] ** 0.5 * (grad * value).abs().sum(dim, keepdim=True))


def _of_log_softmax_backward(grad: torch.Tensor, value: torch.Tensor, dim: int, *_: object) -> torch.Tensor:
    shares = value.exp() * (_ROUNDINGS + value.abs())
    return grad.abs() + value.shape[dim] ** 0.5 * shares * grad.abs().sum(dim, keepdim=True)


def _of_silu_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return _ROUNDINGS * grad.abs() * (1 + x.abs())  # 1 + x (1 - sigmoid) cancels


def _of_layer_norm(
    x: torch.Tensor, _: object, weight: torch.Tensor, bias: torch.Tensor, epsilon: float
) -> torch.Tensor:
    mean, spread = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0) + epsilon
    return x.shape[-1] ** 0.5 * ((x.abs() + mean.abs()) / spread.sqrt() * weight.abs() + bias.abs())


# By the operation's name: the sizes of what is added up, times the roundings.
_SIZES: dict[str, Callable[..., torch.Tensor]] = {
    "mm": _of_product,
    "bmm": _of_product,
    "addmm": _of_sum_and_product,
    "baddbmm": _of_sum_and_product,
    "sum": _of_sum,
    "mean": _of_mean,
    "_softmax": _of_softmax,
    "_log_softmax": _of_log_softmax,
    "_softmax_backward_data": _of_softmax_backward,
    "_log_softmax_backward_data": _of_log_softmax_backward,
    "silu_backward": _of_silu_backward,
    "native_layer_norm": _of_layer_norm,
}


class _AllOff(TorchDispatchMode):
    """Every operation is off by its bound, up or down by chance."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        self.of_result = unit_roundoff(dtype)
        self.of_terms = unit_roundoff(torch.promote_types(dtype, torch.float32))
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(one.alias_info and not one.alias_info.is_write for one in func._schema.returns):
            return func(*args, **kwargs)  # a view
        name = func.overloadpacket.__name__.removesuffix("_")
        sizes = None
        if name in _SIZES and args[0].is_floating_point():  # before one of its arguments is overwritten
            sizes = _SIZES[name](*args, **{name: value for name, value in kwargs.items() if name != "out"})
        result = func(*args, **kwargs)
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, torch.Tensor) and one.is_floating_point() and not _is_spread(one):
                self._put_off(one, one.abs() * (name not in _ROUNDED_ONCE) * _ROUNDINGS if sizes is None else sizes)
                sizes = None  # those of the first
        return result

    def _put_off(self, x: torch.Tensor, sizes: torch.Tensor) -> None:
        off = x.abs() * self.of_result + sizes * self.of_terms
        signs = torch.randint(0, 2, x.shape, generator=self.generator).mul_(2).sub_(1)
        x.add_(torch.where(off.isfinite(), off * signs, 0))


def _is_spread(x: torch.Tensor) -> bool:
    return any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True))


def rounding_errors(
    compute: Callable[[], Sequence[torch.Tensor]], dtype: torch.dtype, repetitions: int = _REPETITIONS
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return what is computed, and how far from it each number may be in a format.

    Args:
        compute: Computes, with PyTorch's operations and in float64 where it can; every time the same.
        dtype: The format that is allowed for.
        repetitions: How often the errors are drawn. Few do where there are many numbers of one kind.
    """
    with sdpa_kernel(SDPBackend.MATH):  # whose operations are seen
        exact = [value.detach().double() for value in compute()]
        squares = [torch.zeros_like(value) for value in exact]
        for seed in range(repetitions):
            with _AllOff(dtype, seed):
                found = compute()
            for square, one, value in zip(squares, found, exact, strict=True):
                square.add_((one.detach().double() - value).square() / repetitions)
    # A number that happened to be hit by nothing is held to what hit its neighbours.
    return exact, [_DEVIATIONS * (square + square.mean()).sqrt() for square in squares]


def assert_computes(
    found: Sequence[torch.Tensor], compute: Callable[[], Sequence[torch.Tensor]], dtype: torch.dtype = torch.float32
) -> None:
    """Fail where what was found is not what is computed exactly, rounding in a format allowed for."""
    assert_within(found, *rounding_errors(compute, dtype))


def assert_within(
    found: Sequence[torch.Tensor], exact: Sequence[torch.Tensor], allowed: Sequence[torch.Tensor], name: str = ""
) -> None:
    """Fail where a number is further from the exact one than is allowed."""
    for place, (one, value, most) in enumerate(zip(found, exact, allowed, strict=True)):
        assert one.shape == value.shape, f"{name} {place}"
        assert most.isfinite().all(), f"{name} {place}: no bound"
        off = (one.detach().double() - value).abs()
        is_far = ~(off <= most)  # NaN as well
        worst = (off / most).nan_to_num(torch.inf).max().item() if off.numel() else 0.0
        assert not is_far.any(), f"{name} {place}: {int(is_far.sum())} of {off.numel()} off by up to {worst:.2f} bounds"
