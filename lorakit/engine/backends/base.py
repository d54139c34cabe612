"""What a backend promises: every operation between a model's tokens and its loss, forward and backward.

A backend belongs to one loaded model and is chosen once. `ops` makes autograd functions of these operations without
knowing which backend computes; all backends are held against float64 by one test, operation by operation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch

from lorakit.engine.backends.operands import AttentionInputs, Gradients, MlpSaved, Norm, NormedInput, Projection, Smalls
from lorakit.engine.backends.workspace import Workspace

# (query, key, value, seqlens, scaling) to [1, tokens, heads, head size]; the first three [1, heads, tokens, head size]
VariableLengthAttention = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, ...], float],
    torch.Tensor,
]


class Backend(ABC):
    """One way to compute.

    Args:
        reason: Why it was chosen, for people.
    """

    name: ClassVar[str]
    is_native: ClassVar[bool] = False  # whether it has code of its own, which compiled layers do without
    # Capabilities.
    fuses_layers: bool  # half a decoder layer as one function is faster than operation by operation
    attends_packed: bool  # `attention` is the fastest way to attend within packed sequences
    shares_prefix: bool  # what all sequences begin with may stand once in a packed row
    trims_last_layer: bool  # the last layer may leave out tokens that the loss does not look at

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.workspace = Workspace()

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"

    @abstractmethod
    def rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return y = w x / sqrt(mean(x^2) + epsilon) over [..., width], and rstd, what x was multiplied by [..., 1]."""

    @abstractmethod
    def rms_norm_backward(
        self,
        grad: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        rstd: torch.Tensor,
        residual_grad: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the gradient of x for that of y [..., width], with that of the residual stream added."""

    @abstractmethod
    def rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_backward: bool = False) -> torch.Tensor:
        """Rotate x [rows, heads, tokens, size] by cos and sin [rows, 1, tokens, size], or rotate a gradient back."""

    @abstractmethod
    def swiglu(self, gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return silu(gate) up."""

    @abstractmethod
    def swiglu_backward(
        self, grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of gate and up for that of their product."""

    @abstractmethod
    def matmul(
        self,
        left: torch.Tensor,
        right: torch.Tensor,
        bias: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return left [rows, depth] times right [depth, columns], plus bias [columns].

        The right one may be a weight in float16 where the left one is float32.

        Raises:
            torch.OutOfMemoryError: There is no memory for a block of the weights.
        """

    @abstractmethod
    def addmm(self, total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Add left times right to a total [rows, columns] in place; without a total return the product itself."""

    @abstractmethod
    def attention(self, inputs: AttentionInputs) -> tuple[torch.Tensor, ...]:
        """Attend causally within each span: return [queries, heads, size], and what the backward pass needs besides."""

    @abstractmethod
    def attention_backward(
        self, inputs: AttentionInputs, grad: torch.Tensor, kept: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of query, key and value for that of the output [queries, heads, size]."""

    def variable_length_attention(self, query: torch.Tensor, dropout: float) -> VariableLengthAttention | None:
        """Return what attends to all sequences in one differentiable call, for such queries; None where nothing does.

        Args:
            query: [1, heads, tokens, head size]
            dropout: On the probabilities.
        """
        return None

    @abstractmethod
    def nll(
        self, logits: torch.Tensor, targets: torch.Tensor, wants_gradient: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the negative log-likelihood of each target, and turn logits into its gradient in place.

        Args:
            logits: [targets, vocabulary]; afterwards (softmax - one-hot), times what is returned second.
            targets: [targets], token ids.
            wants_gradient: Otherwise logits are left with any values.

        Returns:
            [targets] in float32 (float64 for float64), and by what the gradient is still to be divided, [targets, 1];
            None for by nothing. To divide a product of it is cheaper.
        """

    @abstractmethod
    def logit_bytes(self, dtype: torch.dtype) -> int:
        """Return what one logit takes in `nll`, copies included."""

    @abstractmethod
    def lora_linear(
        self, x: torch.Tensor, one: Projection, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return y [tokens, out] of x [tokens, in], and what the adapter makes of x [tokens, rank]."""

    @abstractmethod
    def lora_linear_backward(
        self,
        one: Projection,
        x: torch.Tensor | None,
        small: torch.Tensor | None,
        grad: torch.Tensor,
        grad_x: torch.Tensor | None,
        wants_grad_x: bool,
    ) -> tuple[torch.Tensor | None, Gradients]:
        """Return the gradient of x, and those of a projection's tensors, for that of y.

        Args:
            one: The projection.
            x: [tokens, in]; None without an adapter.
            small: What the adapter made of it, [tokens, rank]; None without one.
            grad: [tokens, out]
            grad_x: What other projections have given to the gradient of x, [tokens, in]; is added to.
            wants_grad_x: Otherwise it stays as it is.
        """

    # What halves of a decoder layer consist of, each of the operations above; a backend may do one in a single call.

    @abstractmethod
    def norm_linears(
        self,
        x: torch.Tensor,
        norm: Norm,
        projections: Sequence[Projection],
        outs: Sequence[torch.Tensor | None],
    ) -> tuple[list[torch.Tensor], Smalls, torch.Tensor]:
        """Return what each projection makes of norm(x), what its adapter does, and rstd."""

    @abstractmethod
    def norm_linears_backward(
        self,
        start: NormedInput,
        projections: Sequence[Projection],
        smalls: Sequence[torch.Tensor | None],
        grads: Sequence[torch.Tensor],
        residual_grad: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, Gradients]:
        """Return the gradient of x, and those of the tensors of the projections that follow its norm.

        Args:
            start: x and its norm.
            projections: All of the normed x.
            smalls: What their adapters made of it, each [tokens, rank].
            grads: Of what they returned, each [tokens, out].
            residual_grad: What else is in the gradient of x; None where that is not wanted.
        """

    @abstractmethod
    def add_linear(
        self, x: torch.Tensor, projection: Projection, residual: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return residual + projection(x), and what its adapter makes of x."""

    def add_linear_backward(
        self, projection: Projection, x: torch.Tensor | None, small: torch.Tensor | None, grad: torch.Tensor
    ) -> tuple[torch.Tensor, Gradients]:
        """Return the gradient of x, and those of the projection's tensors, for that of `add_linear`'s y."""
        grad_x, found = self.lora_linear_backward(projection, x, small, grad, None, True)
        assert grad_x is not None  # wanted
        return grad_x, found

    @abstractmethod
    def mlp(
        self, x: torch.Tensor, norm: Norm, projections: Sequence[Projection]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Smalls, torch.Tensor]:
        """Return x + down(silu(gate) up), gate and up [tokens, inner] of norm(x), what the adapters made, and rstd."""

    @abstractmethod
    def mlp_backward(
        self, saved: MlpSaved, grad: torch.Tensor, wants_grad_x: bool
    ) -> tuple[torch.Tensor | None, Gradients]:
        """Return the gradient of x, and those of the tensors of gate, up and down, for that of `mlp`'s y."""
