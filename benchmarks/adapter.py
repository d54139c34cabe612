"""The adapter that every peer trains with PEFT; imported by child programs only, as it needs PEFT."""

from __future__ import annotations

from peft import LoraConfig
from spec import LORA_ALPHA, LORA_RANK, TARGET_MODULES


def lora_config() -> LoraConfig:
    """Return the settings of the benchmark's LoRA adapter."""
    return LoraConfig(
        r=LORA_RANK,
        lora_alpha=LORA_ALPHA,
        lora_dropout=0.0,
        target_modules=list(TARGET_MODULES),
        task_type="CAUSAL_LM",
    )
