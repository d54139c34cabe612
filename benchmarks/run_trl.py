"""Child program: TRL's SFTTrainer on prompt/completion rows."""

from __future__ import annotations

from adapter import lora_config
from datasets import Dataset
from spec import LEARNING_RATE, MAX_LENGTH_TOKENS, SEED, TRAINER_ARGUMENTS, question_of, read_spec
from step_clock import StepClock
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train once."""
    spec = read_spec()
    rows = [
        {
            "prompt": [{"role": "user", "content": question_of(row)}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }
        for row in spec.rows()
    ]
    arguments = SFTConfig(
        output_dir=spec.output_folder,
        num_train_epochs=1,
        per_device_train_batch_size=spec.sequences_per_step,
        learning_rate=LEARNING_RATE,
        max_length=MAX_LENGTH_TOKENS,
        seed=SEED,
        use_cpu=True,
        bf16=spec.bf16,
        **TRAINER_ARGUMENTS,
        **spec.settings,
    )
    SFTTrainer(
        model=spec.model_folder,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        peft_config=lora_config(),
        callbacks=[StepClock(spec.output_folder)],
    ).train()


if __name__ == "__main__":
    main()
