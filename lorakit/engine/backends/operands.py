"""What operations are given: norms, linear layers with adapters, and what attends to what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.engine.layout import Span

PER_PROJECTION = 5  # tensors

Gradients = list[torch.Tensor | None]  # of the tensors of projections, in their order
Smalls = list[torch.Tensor | None]  # what adapters make of their input, each [tokens, rank]


@dataclass(frozen=True)
class Norm:
    """A frozen RMSNorm: its weight [width], and what is added to the mean square."""

    weight: torch.Tensor
    epsilon: float


@dataclass(frozen=True)
class NormedInput:
    """Where half a layer starts: x [tokens, hidden], its norm, and what that has multiplied x by [tokens, 1]."""

    x: torch.Tensor
    norm: Norm
    rstd: torch.Tensor


@dataclass(frozen=True)
class LoraFactors:
    """An adapter on a linear layer.

    Attributes:
        a: [rank, in], float32.
        b: [out, rank], float32.
        scaling: lora_alpha / rank (over its root with rsLoRA), and over the share of inputs that dropout keeps.
        keep_mask: [tokens, in], True where dropout keeps an input; None without dropout.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    keep_mask: torch.Tensor | None = None

    def cast(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A and the scaled B in the format of the activations."""
        return self.a.to(dtype), (self.b * self.scaling).to(dtype)

    def dropped(self, x: torch.Tensor) -> torch.Tensor:
        """Return what dropout leaves of x."""
        return x if self.keep_mask is None else x * self.keep_mask


@dataclass(frozen=True)
class Projection:
    """A frozen linear layer, and the adapter on it.

    Attributes:
        weight: [out, in]; a transposed view of GPT-2's [in, out] serves as well. In float16 perhaps, where all else is
            float32.
        bias: [out], or None.
        lora: None without an adapter.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    lora: LoraFactors | None = None

    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """Return all of them, in the order in which `split` takes them."""
        lora = self.lora
        return (self.weight, self.bias, *((lora.a, lora.b, lora.keep_mask) if lora else (None, None, None)))


def flatten(projections: Sequence[Projection]) -> tuple[tuple[float, ...], tuple[torch.Tensor | None, ...]]:
    """Take projections apart into scalings and tensors, as autograd functions take and save them."""
    scalings = tuple(one.lora.scaling if one.lora else 1.0 for one in projections)
    return scalings, tuple(tensor for one in projections for tensor in one.tensors())


def split(scalings: Sequence[float], tensors: Sequence[Any]) -> list[Projection]:
    """Put together what `flatten` has taken apart."""
    starts = range(0, len(tensors), PER_PROJECTION)
    return [
        _projection(scaling, *tensors[at : at + PER_PROJECTION]) for scaling, at in zip(scalings, starts, strict=True)
    ]


def _projection(scaling: float, weight: Any, bias: Any, a: Any, b: Any, keep_mask: Any) -> Projection:
    return Projection(weight, bias, None if a is None else LoraFactors(a, b, scaling, keep_mask))


@dataclass(frozen=True)
class Limits:
    """What an attention layer does to its scores besides causal order.

    Sources: Beltagy et al., 2020, "Longformer", arXiv 2004.05150 (windows); Gemma Team, 2024, "Gemma 2", arXiv
    2408.00118 (soft caps); OpenAI, 2025, "gpt-oss", arXiv 2508.10925 (sinks).

    Attributes:
        window: How many tokens a token sees, itself included; None for all before it.
        chunk: A token sees those of its own chunk of so many; None for all before it.
        soft_cap: Scores are bent to stay below it; None for none.
        sinks: [heads], scores of a place that takes its share and gives nothing; None for none.
    """

    window: int | None = None
    chunk: int | None = None
    soft_cap: float | None = None
    sinks: torch.Tensor | None = None

    def bends(self) -> bool:
        """Whether scores are changed, of rows of any length."""
        return self.soft_cap is not None or self.sinks is not None

    def hides(self, longest: int) -> bool:
        """Whether a token of a row of so many does not see all before it."""
        return any(most is not None and longest > most for most in (self.window, self.chunk))

    def applies_to(self, longest: int) -> bool:
        """Whether they change anything for rows of so many tokens."""
        return self.bends() or self.hides(longest)

    def first_seen(self, place: int) -> int:
        """Return the first token that the one at a place sees."""
        after_window = max(place + 1 - self.window, 0) if self.window else 0
        return max(after_window, place // self.chunk * self.chunk if self.chunk else 0)

    def sees(self, asked: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Return whether tokens [asking, 1] see those at places [tokens], as [asking, tokens]."""
        seen = place <= asked
        if self.window:
            seen &= place > asked - self.window
        if self.chunk:
            seen &= place // self.chunk == asked // self.chunk
        return seen


UNLIMITED = Limits()


@dataclass(frozen=True)
class AttentionInputs:
    """What attends to what.

    Attributes:
        query: [heads, queries, size]
        key: [key heads, tokens, size]
        value: [key heads, tokens, size]
        spans: The sequences; together they have all queries.
        scaling: Of the products of queries and keys.
        limits: What is done to scores besides.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    spans: tuple[Span, ...]
    scaling: float
    limits: Limits = UNLIMITED

    def keeps(self, span: Span) -> bool:
        """Whether the backward pass finds the probabilities of a sequence; with bent scores it needs more than them."""
        return span.is_kept and self.limits.soft_cap is None

    def empty_gradients(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return where the gradients of query, key and value go; those of keys and values begin at zero."""
        query, key, value = self.query, self.key, self.value
        return (
            torch.empty_like(query, memory_format=torch.contiguous_format),
            torch.zeros_like(key, memory_format=torch.contiguous_format),
            # laid out as the projection's output, whose gradient it becomes
            value.new_zeros(value.shape[1], value.shape[0], value.shape[2]).transpose(0, 1),
        )


@dataclass(frozen=True)
class MlpSaved:
    """What the backward pass of half a layer with a gated MLP needs of the forward pass.

    Attributes:
        start: x and its norm.
        projections: Gate, up, and down.
        smalls: What their adapters made of their inputs, each [tokens, rank].
        gate: [tokens, inner]
        up: [tokens, inner]
    """

    start: NormedInput
    projections: Sequence[Projection]
    smalls: Sequence[torch.Tensor | None]
    gate: torch.Tensor
    up: torch.Tensor
