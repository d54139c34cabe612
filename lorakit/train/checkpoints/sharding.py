"""What FSDP needs beyond Hugging Face's Trainer: to be on on a CPU, ranks in step, and whole tensors to save.

What is trained is small, and so is its optimizer's state: whole, they go into the same file as those of a run that is
not sharded. PyTorch's own sharded checkpoints describe themselves in a pickle.
"""

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


def whole(state: Any) -> Any:
    """Return nested dictionaries and lists with every sharded tensor whole. Every rank must call this."""
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value) for value in state)
    return state.full_tensor() if hasattr(state, "full_tensor") else state


def sharded_optimizer_state(state: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    """Cut the whole tensors of an optimizer's state as its parameters are cut. Every rank must call this."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        number: {name: _sharded_like(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": cut}


def load_trained(model: Any, trained: Mapping[str, torch.Tensor]) -> None:
    """Give the trained parameters the values of `gather_trained`. Every rank must call this."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(_sharded_like(trained[name], parameter))


def _sharded_like(value: Any, parameter: torch.Tensor) -> Any:
    """Cut a whole tensor of a sharded parameter's shape as that is cut; leave everything else."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def gather_trained(model: Any) -> dict[str, torch.Tensor]:
    """Return the trained parameters whole, by name. Every rank must call this: shards come from all of them."""
    return {name: whole(parameter).detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
