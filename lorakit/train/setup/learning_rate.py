"""``learning_rate: auto``: where to begin, by a published rule.

Of the Tinker cookbook (hyperparam_utils), fitted there to sweeps over Llama and Qwen models of many sizes: LoRA on all
layers wants about ten times the rate of full fine-tuning, 5e-4 * (2000 / hidden size) ** p. "LoRA Without Regret"
(Schulman and others, 2025) found that short runs want about half as much again, and that the best rate hardly depends
on the rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lorakit import console
from lorakit.config import Config
from lorakit.errors import SettingsError

_AT_REFERENCE = 5e-4
_REFERENCE_SIZE = 2000
_POWERS = {"qwen": 0.0775}  # by the beginning of the family's name
_POWER = 0.781  # Llama's, and what is taken for all others
_SHORT_RUN_STEPS = 100
_SHORT_RUN_FACTOR = 1.5
_BOUNDS = (1e-4, 2e-3)  # beyond 3e-3 most of the cookbook's runs diverged
_DIGITS = 2
_SIZE_NAMES = ("hidden_size", "n_embd", "d_model")


def automatic_rate(hidden_size: int, family: str, steps: int) -> float:
    """Return the rate to begin with.

    Args:
        hidden_size: Of the model.
        family: Its ``model_type``.
        steps: Of the run.
    """
    power = next((power for name, power in _POWERS.items() if family.startswith(name)), _POWER)
    rate = _AT_REFERENCE * (_REFERENCE_SIZE / hidden_size) ** power
    if steps < _SHORT_RUN_STEPS:
        rate *= _SHORT_RUN_FACTOR
    low, high = _BOUNDS
    return float(f"{min(max(rate, low), high):.{_DIGITS}g}")


def with_rate(config: Config, model: Mapping[str, Any], steps: int) -> Config:
    """Return the settings of a run with a rate in place of ``auto``, and say which.

    Args:
        config: Of the run.
        model: Its config.json.
        steps: Of the run.

    Raises:
        SettingsError: The model does not say how wide it is.
    """
    if config.learning_rate != "auto":
        return config
    text = model.get("text_config", model)
    size = next((text[name] for name in _SIZE_NAMES if isinstance(text.get(name), int) and text[name] > 0), None)
    if size is None:
        raise SettingsError(
            "learning_rate: auto cannot be computed, as config.json has no hidden_size", "set learning_rate: 2e-4"
        )
    rate = automatic_rate(size, str(model["model_type"]), steps)
    console.note(f"learning_rate auto: {rate:g} for a model {size} wide and {steps} steps")
    return config.model_copy(update={"learning_rate": rate})


def steps_of(config: Config, rows: int, processes: int) -> int:
    """Return how many steps a run will take.

    Args:
        config: Of the run.
        rows: That are trained.
        processes: That share a step.
    """
    if isinstance(most := config.trainer_args.get("max_steps"), int) and most > 0:
        return most
    a_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * processes
    return math.ceil(math.ceil(rows / a_step) * config.num_train_epochs)
