"""From the configuration to ``transformers.TrainingArguments``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from lorakit.config import Config
from lorakit.engine import DtypeChoice
from lorakit.errors import SettingsError
from lorakit.incoming import fault_of_file, read_json
from lorakit.train.setup.launchers import check_launcher
from lorakit.train.setup.rehearsal import rehearse

# What `trainer_args` may change; everything else is transformers' own default.
DEFAULTS: dict[str, Any] = {
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "ddp_find_unused_parameters": False,  # DDP exchanges no gradients: see `averaging`
}
# transformers' words for: the adapter with the lowest validation loss is the one that counts.
_BEST_KEPT: dict[str, Any] = {
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
    "restore_callback_states_from_checkpoint": True,  # how long the loss has not improved
}


def training_arguments(config: Config, dtype: DtypeChoice, device: torch.device) -> TrainingArguments:
    """Translate a configuration.

    Raises:
        SettingsError: `trainer_args` holds a value that transformers refuses.
    """
    given = DEFAULTS | {"eval_strategy": "epoch" if config.has_validation else "no"} | config.trainer_args
    if config.keeps_best:
        given = _BEST_KEPT | given | {"load_best_model_at_end": True}
    if given["save_strategy"] == "best":
        given.setdefault("metric_for_best_model", "eval_loss")
    given.setdefault("dataloader_pin_memory", device.type == "cuda")
    given.setdefault("use_cpu", device.type == "cpu")  # without it, processes on a CPU would not find each other
    check_launcher(given)
    if given.get("train_sampling_strategy", "random") not in ("random", "sequential"):
        raise SettingsError(
            "trainer_args: train_sampling_strategy puts rows of one length together, which packing makes needless",
            "set random or sequential",
        )
    if given.get("fsdp"):
        given |= _sharding(given)
    try:
        arguments = TrainingArguments(
            output_dir=config.output_dir,
            num_train_epochs=config.num_train_epochs,
            # All rows of an optimizer step at once: LoraTrainer cuts them by tokens, not by rows.
            per_device_train_batch_size=config.per_device_train_batch_size * config.gradient_accumulation_steps,
            per_device_eval_batch_size=config.per_device_eval_batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            fp16=dtype.dtype is torch.float16,  # loss scaling; the adapter is float32 whatever the base is
            remove_unused_columns=False,
            **given,
        )
        arguments.get_process_log_level()  # of a name, which only this looks up
    except Exception as error:  # its checks, and the libraries and files behind them, raise what they like
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(f"trainer_args: {reason}", "see the documentation of TrainingArguments") from error
    if arguments.eval_strategy != "no" and not config.has_validation:
        raise SettingsError("trainer_args: eval_strategy needs rows to evaluate on", "set validation_file")
    if arguments.load_best_model_at_end and not config.has_validation:
        raise SettingsError("the best adapter is the one of the lowest validation loss", "set validation_file")
    if not 0 <= arguments.label_smoothing_factor <= 1:
        raise SettingsError("trainer_args: label_smoothing_factor is a share of each target", "set 0 to 1")
    rehearse(arguments)
    if arguments.parallel_mode.value == "not_distributed":
        arguments._n_gpu = 1  # several visible GPUs without torchrun would split the packed row apart
    return arguments


def _sharding(given: dict[str, Any]) -> dict[str, Any]:
    """Return what FSDP needs so that a run can be resumed and its adapter saved."""
    settings = given.get("fsdp_config") or {}
    if isinstance(settings, str):
        settings = _read_sharding(settings)
    settings = dict(settings)
    # FSDP's own checkpointing renames the layers, after which PEFT saves nothing; that of the model does not.
    checkpoints = bool(settings.pop("activation_checkpointing", False) or given.get("activation_checkpointing"))
    return {"fsdp_config": settings, "activation_checkpointing": checkpoints}


def _read_sharding(name: str) -> dict[str, Any]:
    fault = fault_of_file(name)
    try:
        settings = {} if fault else read_json(Path(name))
    except (OSError, ValueError):
        fault = "is not readable as JSON"
    if fault or not isinstance(settings, dict):
        raise SettingsError(
            f"trainer_args: fsdp_config {name}: {fault or 'is not a JSON object'}", "name a file of FSDP settings"
        )
    return settings
