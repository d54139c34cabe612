"""Going on from a checkpoint: only with the settings, and the decisions, of the run that left it."""

from __future__ import annotations

from pathlib import Path

import yaml

from lorakit.config import Config
from lorakit.errors import RunError
from lorakit.runs import USED_CONFIG_FILE, PlanRecord, newest_checkpoint, read_records

# Settings that a resumed run must share with the run it continues.
_FIXED_ON_RESUME = (
    "model_name_or_path",
    "train_file",
    "system_prompt",
    "max_length",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "seed",
)


def checkpoint_to_resume(config: Config, folder: Path) -> Path | None:
    """Return the newest checkpoint where the settings ask to resume, else None.

    Raises:
        RunError: There is none, or its run had other settings.
    """
    if not config.resume:
        return None
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        raise RunError(f"resume: there is no checkpoint in {folder}", "train without resume, or set output_dir")
    before = yaml.safe_load((folder / USED_CONFIG_FILE).read_text(encoding="utf-8"))
    now = config.model_dump()
    changed = [name for name in _FIXED_ON_RESUME if before.get(name) != now[name]]
    if changed:
        differences = ", ".join(f"{name} was {before.get(name)} and is {now[name]}" for name in changed)
        raise RunError(f"resume: the run in {folder} had other settings ({differences})", "use the settings it had")
    return checkpoint


def earlier_plan(folder: Path) -> PlanRecord | None:
    """Return what the run in a folder decided before its first step."""
    return next((record for record in read_records(folder) if isinstance(record, PlanRecord)), None)
