"""Child program: Hugging Face's Trainer with PEFT on rows with pictures, through the model's own processor."""

from __future__ import annotations

from typing import Any

from adapter import lora_config
from encoding import IGNORED_LABEL
from peft import get_peft_model
from PIL import Image
from spec import LEARNING_RATE, SEED, TRAINER_ARGUMENTS, read_spec
from step_clock import Counter, StepClock
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments


class PictureCollator:
    """Makes a padded batch of rows as the documentation of vision-language models shows it.

    Args:
        processor: Of the model.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        processor.tokenizer.padding_side = "right"
        self.counter = Counter()

    def __call__(self, rows: list[dict[str, str]]) -> dict[str, Any]:
        """Return what the model's forward pass takes; only answers and their end-of-turn tokens carry loss."""
        pictures = [Image.open(row["image"]).convert("RGB") for row in rows]
        prompts = [self._text(row, with_answer=False) for row in rows]
        texts = [self._text(row, with_answer=True) for row in rows]
        batch = self._processor(text=texts, images=pictures, padding=True, return_tensors="pt")
        labels = batch["input_ids"].clone()
        labels[batch["attention_mask"] == 0] = IGNORED_LABEL
        asked = self._processor(text=prompts, images=pictures, padding=True, return_tensors="pt")
        for row, tokens in enumerate(asked["attention_mask"].sum(dim=1).tolist()):
            labels[row, :tokens] = IGNORED_LABEL
        self.counter.add(len(rows), int((labels != IGNORED_LABEL).sum()))
        return {**batch, "labels": labels}

    def _text(self, row: dict[str, str], with_answer: bool) -> str:
        question = [{"type": "image"}, {"type": "text", "text": row["text"]}]
        messages = [{"role": "user", "content": question}]
        if with_answer:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": row["target"]}]})
        text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=not with_answer)
        return str(text).rstrip("\n") if with_answer else str(text)


def main() -> None:
    """Train once."""
    spec = read_spec()
    collator = PictureCollator(AutoProcessor.from_pretrained(spec.model_folder))
    base = AutoModelForImageTextToText.from_pretrained(spec.model_folder, dtype="auto" if spec.bf16 else "float32")
    arguments = TrainingArguments(
        output_dir=spec.output_folder,
        num_train_epochs=spec.epochs,
        per_device_train_batch_size=spec.sequences_per_step,
        learning_rate=LEARNING_RATE,
        seed=SEED,
        bf16=spec.bf16,
        use_cpu=True,
        remove_unused_columns=False,
        **TRAINER_ARGUMENTS,
        **spec.settings,
    )
    Trainer(
        model=get_peft_model(base, lora_config()),
        args=arguments,
        train_dataset=spec.rows(),
        data_collator=collator,
        callbacks=[StepClock(spec.output_folder, collator.counter)],
    ).train()


if __name__ == "__main__":
    main()
