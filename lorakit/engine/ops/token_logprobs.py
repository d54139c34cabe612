"""The log-probability of every trained token, through a frozen output projection, without ever holding all logits."""

from __future__ import annotations

import math
from typing import Any

import torch

from lorakit.engine.backends.base import Backend

# The logits of a chunk take about so much, where that leaves no fewer targets than the other number, below which the
# product waits for the weights to be read. From 32 MiB on, glibc takes memory fresh from the system each time.
_CHUNK_BYTES = 33_000_000
_FEWEST_CHUNK_TARGETS = 160


class TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden W^T) at the targets.

    Values and input gradient come from the same pass over chunks of targets: the logits of a chunk become their
    gradient in place and are gone before the next chunk. What the backward pass is given scales each token's gradient,
    so that it is exact for any function of these numbers. The log-sum-exp is taken in float32 (float64 for float64).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, backend: Backend
    ) -> torch.Tensor:
        """Return [targets] in float32.

        Args:
            ctx: Of autograd.
            hidden: [targets, hidden]
            weight: [vocabulary, hidden], frozen.
            targets: [targets], token ids.
            backend: Which computes.

        Raises:
            RuntimeError: There are not as many hidden states as targets: the model did not keep those it was asked for.
        """
        if len(hidden) != len(targets):
            raise RuntimeError(f"the model returned {len(hidden)} hidden states for {len(targets)} targets")
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        logprobs = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
        size = _chunk_targets(len(hidden), len(weight), hidden.dtype, backend)
        # Fresh memory of this size would cost more than the arithmetic on it, so all chunks share it.
        buffer = hidden.new_empty(size, weight.shape[0])
        for start in range(0, len(hidden), size):
            chunk, wanted = slice(start, start + size), targets[start : start + size]
            logits = backend.matmul(hidden[chunk], weight.T, out=buffer[: len(wanted)])  # [chunk, vocabulary]
            nll, divisor = backend.nll(logits, wanted, gradient is not None)
            torch.neg(nll, out=logprobs[chunk])
            if gradient is not None:
                through_head = backend.matmul(logits, weight, out=gradient[chunk])
                if divisor is not None:
                    through_head.div_(divisor)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return logprobs

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Scale, token by token, the gradient that the forward pass has already computed."""
        (gradient,) = ctx.saved_tensors
        return gradient * grad.neg().to(gradient.dtype)[:, None], None, None, None


def _chunk_targets(targets: int, vocabulary: int, dtype: torch.dtype, backend: Backend) -> int:
    """Choose how many targets to project at a time: in as few chunks as fit, all of about one size."""
    chunks = math.ceil(targets / _most_chunk_targets(vocabulary, backend.logit_bytes(dtype)))
    return math.ceil(targets / max(chunks, 1)) or 1


def logits_bytes(targets: int, vocabulary: int, dtype: torch.dtype, backend: Backend) -> int:
    """Return the most that logits take for so many targets or fewer."""
    each = backend.logit_bytes(dtype)
    return min(targets, _most_chunk_targets(vocabulary, each)) * vocabulary * each


def _most_chunk_targets(vocabulary: int, logit_bytes: int) -> int:
    return max(_CHUNK_BYTES // (vocabulary * logit_bytes), _FEWEST_CHUNK_TARGETS)
