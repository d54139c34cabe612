"""Gradients averaged over processes by ourselves, once a step, when all of its passes have succeeded on all of them.

DDP exchanges them within the last backward pass. It then waits for parameters that this pass does not reach (an
adapted vision tower, where the rows have no pictures; an expert that no token chose), and cannot take back a pass that
ran out of memory. Here a parameter that no process has reached keeps no gradient, as in one process.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


def average_gradients(parameters: Iterable[torch.nn.Parameter], processes: int) -> None:
    """Average the gradients of all processes. Every one must call this, with the same parameters in the same order."""
    trained = list(parameters)
    device = trained[0].device
    reached = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.uint8, device=device)
    torch.distributed.all_reduce(reached, torch.distributed.ReduceOp.MAX)
    shared = [parameter for parameter, is_reached in zip(trained, reached.tolist(), strict=True) if is_reached]
    if not shared:
        return
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in shared]
    together = torch.cat([gradient.flatten() for gradient in gradients])  # [all values]
    torch.distributed.all_reduce(together)
    together /= processes
    for parameter, part in zip(shared, together.split([one.numel() for one in shared]), strict=True):
        parameter.grad = part.view_as(parameter).clone()
