"""Child program: LLaMA-Factory's own entry to supervised fine-tuning, on the CPU.

Three of its habits are met as a user would meet them: bf16 without a GPU needs ``use_cpu``; the output folder must not
exist yet; and without ``template`` it reads the model's own chat template, as the other tools do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llamafactory.train.tuner import run_exp
from spec import (
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_RANK,
    MAX_LENGTH_TOKENS,
    SEED,
    TARGET_MODULES,
    TrainingSpec,
    read_spec,
)
from step_clock import StepClock


def arguments_of(spec: TrainingSpec, data_folder: Path) -> dict[str, Any]:
    """Say in LLaMA-Factory's words what the specification says."""
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": spec.model_folder,
        "dataset_dir": str(data_folder),
        "dataset": "rows",
        "cutoff_len": MAX_LENGTH_TOKENS,
        "finetuning_type": "lora",
        "lora_rank": LORA_RANK,
        "lora_alpha": LORA_ALPHA,
        "lora_dropout": 0.0,
        "lora_target": ",".join(TARGET_MODULES),
        "output_dir": str(Path(spec.output_folder) / "saved"),
        "num_train_epochs": 1,
        "per_device_train_batch_size": spec.sequences_per_step,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "seed": SEED,
        "bf16": spec.bf16,
        "use_cpu": True,
        "disable_shuffling": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        **spec.settings,
    }


def main() -> None:
    """Train once."""
    spec = read_spec()
    data_folder = Path(spec.output_folder) / "data"
    data_folder.mkdir()
    description = {"rows": {"file_name": str(Path(spec.rows_file).resolve())}}
    (data_folder / "dataset_info.json").write_text(json.dumps(description), encoding="utf-8")
    run_exp(arguments_of(spec, data_folder), [StepClock(spec.output_folder)])


if __name__ == "__main__":
    main()
