"""What FSDP needs beyond Hugging Face's Trainer: to be on on a CPU, ranks in step, and whole weights to save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def shard_on_cpu(state: Any, plugin_arguments: Mapping[str, Any]) -> None:
    """Switch FSDP on in accelerate's state; by itself it does so on accelerators only, and falls back to DDP.

    Args:
        state: An ``AcceleratorState`` with several processes.
        plugin_arguments: As `transformers.TrainingArguments` has derived them from ``fsdp_config``.
    """
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**plugin_arguments)


def most_over_ranks(accelerator: Any, number: int) -> int:
    """Return the largest of the ranks' numbers."""
    gathered = accelerator.gather(torch.tensor([number], device=accelerator.device))
    return int(gathered.max())


def gather_trained(model: Any) -> dict[str, torch.Tensor]:
    """Return the trained parameters whole, by name. Every rank must call this: shards come from all of them."""
    return {
        name: (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
