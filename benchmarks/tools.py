"""The tools that are measured, as a table: whose Python runs which program with which settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import ROOT, Job, Work
from machine import has_instructions
from peers import OWN
from spec import (
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_RANK,
    MAX_LENGTH_TOKENS,
    SEED,
    TARGET_MODULES,
    TRAINER_ARGUMENTS,
    TrainingSpec,
)

OURS = "lorakit"
OF_BUSY_MACHINES = "R1"  # the job that is measured beside other work too
REFERENCE = "trainer"  # its loss is what the others are held against
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Tool:
    """One tool in one setting.

    Attributes:
        name: For ``--tools``.
        title: In tables.
        program: A child program of this folder; None for lorakit's command line.
        environment: Whose packages it finds, a name that `peers.python_of` knows.
        settings: Beyond the common ones.
        picture_program: The same for rows with pictures; None where the tool is not measured on them.
        packs: Whether it lays rows into bins of `MAX_LENGTH_TOKENS`, so that its batches differ.
        dtype: What it computes in, where that is not what the machine computes fastest; left out where it is.
        instructions: Of the processors on which it is measured, as /proc/cpuinfo names them, and only where products in
            float32 are faster than in bfloat16; None for all.
        busy: How many other processes keep the machine busy meanwhile, each as much of a core as it can get.
        note: What the page says about it.
    """

    name: str
    title: str
    program: str | None
    note: str
    environment: str = OWN
    settings: Mapping[str, Any] = field(default_factory=dict)
    packs: bool = False
    dtype: str | None = None
    instructions: str | None = None
    picture_program: str | None = None
    busy: int = 0

    def runs_on(self, fastest: str) -> bool:
        """Whether the tool is measured on this machine, where products are fastest in a format."""
        if self.instructions is not None and (fastest == "bfloat16" or not has_instructions(self.instructions)):
            return False
        return self.dtype != fastest

    def takes(self, job: Job) -> bool:
        """Whether the tool is measured on a job."""
        if self.busy and job.name != OF_BUSY_MACHINES:
            return False
        return not job.has_pictures or self.program is None or self.picture_program is not None


_FAST_TRL: Mapping[str, Any] = {"gradient_checkpointing": False, "model_init_kwargs": {"dtype": "bfloat16"}}

TOOLS = {
    tool.name: tool
    for tool in (
        Tool(OURS, "lorakit", None, "`python main.py --task train`."),
        Tool(
            "lorakit-float32",
            "lorakit, float32",
            None,
            "The same with `torch_dtype: float32`, where lorakit chooses float16 for its products with weights.",
            settings={"torch_dtype": "float32"},
            instructions="avx512_fp16",
        ),
        Tool(
            "lorakit-beside",
            "lorakit, beside work",
            None,
            "The same beside two processes that each take as much of a core as they can get.",
            busy=2,
        ),
        Tool(
            REFERENCE,
            "Trainer + PEFT",
            "run_trainer.py",
            "Padded batches, mask on the answers, `use_cpu`; pictures through the model's processor.",
            picture_program="run_trainer_pictures.py",
        ),
        Tool("trl", "TRL SFTTrainer", "run_trl.py", "Default settings (activations computed anew).", "trl"),
        Tool(
            "trl-bf16",
            "TRL SFTTrainer, bf16",
            "run_trl.py",
            "The same in bfloat16, TRL's default on every machine, where float32 is faster.",
            "trl",
            dtype="bfloat16",
        ),
        Tool(
            "trl-packing",
            "TRL, packing",
            "run_trl.py",
            f"Default settings and `packing=True`: bins of {MAX_LENGTH_TOKENS} tokens, as many as hold about as many "
            "tokens a step.",
            "trl",
            {"packing": True},
            packs=True,
        ),
        Tool(
            "trl-fast",
            "TRL, tuned",
            "run_trl.py",
            "Weights in bfloat16, `gradient_checkpointing=False`.",
            "trl",
            _FAST_TRL,
        ),
        Tool(
            "trl-packing-fast",
            "TRL, packing, tuned",
            "run_trl.py",
            "The same with `packing=True`.",
            "trl",
            {**_FAST_TRL, "packing": True},
            packs=True,
        ),
        Tool(
            "llamafactory",
            "LLaMA-Factory",
            "run_llamafactory.py",
            "Default settings (activations computed anew), `use_cpu`.",
            "llamafactory",
        ),
        Tool(
            "llamafactory-fast",
            "LLaMA-Factory, tuned",
            "run_llamafactory.py",
            "The same with `disable_gradient_checkpointing`.",
            "llamafactory",
            {"disable_gradient_checkpointing": True},
        ),
    )
}


def specification(tool: Tool, job: Job, work: Work, model_folder: str, rows_file: Path, folder: Path) -> TrainingSpec:
    """Tell a tool what to train."""
    bins = work.bins_per_step(job.rows_per_step, MAX_LENGTH_TOKENS)
    sequences = bins if tool.packs else job.rows_per_step
    files = (model_folder, str(rows_file), str(folder))
    return TrainingSpec(*files, sequences, job.epochs, settings=dict(tool.settings))


def command(tool: Tool, job: Job, python: Path, spec: TrainingSpec) -> list[str]:
    """Write what the tool reads, and return its command line."""
    program = tool.picture_program if job.has_pictures else tool.program
    if program is not None:
        return [str(python), str(_FOLDER / program), str(spec.save())]
    config = Path(spec.output_folder) / "config.yaml"
    config.write_text(json.dumps(lorakit_config(spec), indent=2), encoding="utf-8")  # JSON is YAML
    return [str(python), str(ROOT / "main.py"), "--config", str(config), "--task", "train"]


def lorakit_config(spec: TrainingSpec) -> dict[str, Any]:
    """Say in lorakit's words what the specification says; one token is answered at the end, after the training."""
    return {
        "model_name_or_path": spec.model_folder,
        "train_file": spec.rows_file,
        "validation_file": None,
        "max_length": MAX_LENGTH_TOKENS,
        "lora_r": LORA_RANK,
        "lora_alpha": LORA_ALPHA,
        "lora_dropout": 0,
        "target_modules": list(TARGET_MODULES),
        "output_dir": spec.output_folder,
        "num_train_epochs": spec.epochs,
        "per_device_train_batch_size": spec.sequences_per_step,
        "learning_rate": LEARNING_RATE,
        "seed": SEED,
        "max_new_tokens": 1,
        "max_generated_rows": 1,
        "trainer_args": TRAINER_ARGUMENTS,
        **spec.settings,
    }
