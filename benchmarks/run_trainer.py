"""Child program: Hugging Face's Trainer with PEFT as their documentation shows it, padded batches."""

from __future__ import annotations

from adapter import lora_config
from encoding import IGNORED_LABEL, encode_row
from peft import get_peft_model
from spec import LEARNING_RATE, SEED, TRAINER_ARGUMENTS, read_spec
from step_clock import StepClock
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments


def main() -> None:
    """Train once."""
    spec = read_spec()
    tokenizer = AutoTokenizer.from_pretrained(spec.model_folder)
    rows = [encode_row(row, tokenizer) for row in spec.rows()]
    # The files are in bfloat16, and so would the model be, on machines that compute it very slowly too.
    base = AutoModelForCausalLM.from_pretrained(spec.model_folder, dtype="auto" if spec.bf16 else "float32")
    model = get_peft_model(base, lora_config())
    arguments = TrainingArguments(
        output_dir=spec.output_folder,
        num_train_epochs=1,
        per_device_train_batch_size=spec.sequences_per_step,
        learning_rate=LEARNING_RATE,
        seed=SEED,
        bf16=spec.bf16,
        use_cpu=True,
        **TRAINER_ARGUMENTS,
        **spec.settings,
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED_LABEL),
        callbacks=[StepClock(spec.output_folder)],
    ).train()


if __name__ == "__main__":
    main()
