"""What one training run is told: the same for every tool, handed to its process as a JSON file.

The programs of the peers import this file in environments without lorakit: standard library only.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LORA_RANK = 8
LORA_ALPHA = 16
TARGET_MODULES = ("q_proj", "v_proj")
LEARNING_RATE = 1e-3  # constant, no warm-up
MAX_LENGTH_TOKENS = 1024
SEED = 42
EVENTS_FILE = "events.jsonl"

# Fields of transformers.TrainingArguments that lorakit, plain Trainer and TRL are given alike.
TRAINER_ARGUMENTS: dict[str, Any] = {
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "train_sampling_strategy": "sequential",  # so that every tool sees the same batches
}


@dataclass(frozen=True)
class TrainingSpec:
    """One training run.

    Attributes:
        model_folder: Weights, configuration and tokenizer.
        rows_file: JSON, rows of ``instruction``, ``input`` and ``output`` (the Alpaca format).
        output_folder: Where the run may write, and where its `EVENTS_FILE` is expected.
        sequences_per_step: Of one optimizer step; rows, or packed bins of `MAX_LENGTH_TOKENS`.
        epochs: How often every row is trained.
        dtype: What this machine computes fastest, bfloat16 or float32; lorakit finds out by itself.
        settings: What this tool is given beyond the common settings.
    """

    model_folder: str
    rows_file: str
    output_folder: str
    sequences_per_step: int
    epochs: int = 1
    dtype: str = "bfloat16"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def bf16(self) -> bool:
        """Whether the peers train in mixed precision."""
        return self.dtype == "bfloat16"

    def save(self) -> Path:
        """Write the specification into the output folder, and return the file."""
        file = Path(self.output_folder) / "spec.json"
        file.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        return file

    def rows(self) -> list[dict[str, str]]:
        """Read the rows."""
        rows: list[dict[str, str]] = json.loads(Path(self.rows_file).read_text(encoding="utf-8"))
        return rows


def read_spec() -> TrainingSpec:
    """Read the specification that the command line of this process names."""
    return TrainingSpec(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def question_of(row: dict[str, str]) -> str:
    """Join instruction and input as lorakit and LLaMA-Factory do."""
    return f"{row['instruction']}\n{row['input']}" if row.get("input") else row["instruction"]
