"""What ``accelerate launch`` would change by variables of the environment, which no setting of a run would show."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lorakit.errors import SettingsError

_SHARD = "shard by trainer_args: {fsdp: true} instead"
_DEEPSPEED = ("DeepSpeed keeps its checkpoints in pickles, which could run code when they are loaded", _SHARD)
_OFF = ("", "0", "no", "false", "none")
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": _DEEPSPEED,
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM trains models of its own kind", _SHARD),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("a row is not split over processes", "share rows, or " + _SHARD),
    "ACCELERATE_MIXED_PRECISION": (
        "its number format would compute otherwise than torch_dtype says",
        "accelerate launch --mixed_precision no, and set torch_dtype",
    ),
    "ACCELERATE_DYNAMO_BACKEND": (
        "it would compile what compile_layers decides about",
        "accelerate launch --dynamo_backend no, and set compile_layers",
    ),
}
_FSDP = "ACCELERATE_USE_FSDP"


def check_launcher(arguments: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> None:
    """Refuse what would change a run without standing in its settings.

    Args:
        arguments: ``trainer_args``.
        environment: As the launcher has set it.

    Raises:
        SettingsError: DeepSpeed or another way to share a model is asked for, or another number format.
    """
    if arguments.get("deepspeed"):
        raise SettingsError(f"trainer_args: {_DEEPSPEED[0]}", _DEEPSPEED[1])
    for name, (fault, remedy) in _REFUSED.items():
        if environment.get(name, "").lower() not in _OFF:
            raise SettingsError(f"{name}={environment[name]}, as the launcher has set it: {fault}", remedy)
    if environment.get(_FSDP, "").lower() not in _OFF and not arguments.get("fsdp"):
        fault = "the settings say no fsdp"
        raise SettingsError(f"{_FSDP}={environment[_FSDP]}, as the launcher has set it: {fault}", _SHARD)
