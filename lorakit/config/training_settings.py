"""The settings of model, rows, adapter and training, once: name, type, default, bounds and help."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lorakit.config.kinds import LoraRanks, Meaning, RowSources, Shown, TargetModules, TemplateDate

NumberFormat = Literal["auto", "float32", "float16", "bfloat16"]


class TrainingSettings(BaseModel):
    """What a training is made of; `lorakit.config.settings.Config` has the settings of all tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    model_name_or_path: Annotated[str, Shown("Model", flag=True, changes_result=False)] = Field(
        "starter",
        min_length=1,
        description="The base model: `starter` (a small real model, fetched once), a local folder, or a hub name "
        "such as `Qwen/Qwen3-1.7B`.",
    )
    model_hub: Annotated[Literal["huggingface", "modelscope"], Shown("Model", changes_result=False)] = Field(
        "huggingface",
        description="Where hub names are looked up. `modelscope` needs `pip install -e .[modelscope]`.",
    )
    trust_remote_code: Annotated[bool, Shown("Model", changes_result=False)] = Field(
        False,
        description="Run the Python code that some models bring with them (`auto_map` in their config.json). It can do "
        "whatever you can: read it first.",
    )
    torch_dtype: Annotated[NumberFormat, Shown("Model", changes_result=False)] = Field(
        "auto",
        description="Number format of the frozen base weights. `auto` chooses by device and by measurement and says "
        "why. `float16` on a CPU: the large matrices alone, where the processor multiplies it fast, else replaced. The "
        "adapter itself is always float32.",
    )

    load_in_4bit: Annotated[bool, Shown("Model")] = Field(
        False,
        description="Hold the frozen base weights in 4 bits (NF4, QLoRA): a quarter of their memory for some "
        "precision. Needs `pip install -e .[quantized]`.",
    )
    load_in_8bit: Annotated[bool, Shown("Model")] = Field(
        False, description="The same in 8 bits (LLM.int8): half of their memory."
    )

    train_file: Annotated[RowSources, Shown("Data", flag=True, changes_result=False)] = Field(
        "data/train.json",
        examples=["[data/own.jsonl, {path: data/general.parquet, weight: 0.5}]"],
        description="Training rows: a JSON, JSON Lines, CSV, Parquet or Excel file, a folder of them, or the name of a "
        "Hub dataset. A list mixes several, each a path or `{path, weight, max_rows, split, config}`: weight 2 trains "
        "the rows twice in each epoch, 0.5 half of them; split and config are those of a Hub dataset.",
    )
    validation_file: Annotated[RowSources | None, Shown("Data", flag=True, changes_result=False)] = Field(
        "data/validation.json",
        description=(
            "Rows for the validation loss and for `--task evaluate`. null: no validation, and training rows are "
            "answered at the end."
        ),
    )
    text_field: Annotated[str, Shown("Data")] = Field(
        "text", min_length=1, description="Name of the question's field in question/answer rows."
    )
    target_field: Annotated[str, Shown("Data")] = Field(
        "target", min_length=1, description="Name of the answer's field in question/answer rows."
    )
    validation_share: Annotated[float | None, Shown("Data", changes_result=False)] = Field(
        None,
        gt=0,
        lt=1,
        description="Hold back this share of the training rows in place of a `validation_file`, by question: none "
        "stands on both sides.",
    )
    max_rows: Annotated[int | None, Shown("Data", changes_result=False)] = Field(
        None, ge=1, description="Only the first so many rows of each file. null: all."
    )
    encoding: Annotated[str | None, Shown("Data", changes_result=False)] = Field(
        None,
        min_length=1,
        description="Encoding of text files that are not UTF-8, such as `cp1252`. null: by evidence, which is printed; "
        "where that leaves a doubt, the run stops and asks.",
    )
    map_fields: Annotated[dict[str, Meaning], Shown("Data", changes_result=False)] = Field(
        {},
        examples=["{passage: input}"],
        description="Further fields and what they mean: `{passage: input}` puts a passage after the question. "
        "Meanings: text, target, input, system, history, reasoning, tools, images, messages, conversations, chat (all "
        "of a conversation as one text).",
    )
    ignore_fields: Annotated[list[str], Shown("Data", changes_result=False)] = Field(
        [],
        examples=["[explanation]"],
        description="Fields that are left out on purpose, such as `[explanation]` or "
        '`["messages[].weight"]`; also those that would be read.',
    )
    train_turns: Annotated[Literal["all", "last", "marked"], Shown("Data", changes_result=False)] = Field(
        "all",
        description="Which answers of a conversation carry loss: `all` but those that their turn switches off "
        "(`weight`, `loss` or `train` 0, `masked` 1), the `last` one alone, or only those that are `marked` (the same "
        "with 1; `masked` 0).",
    )
    train_reasoning: Annotated[bool, Shown("Data", changes_result=False)] = Field(
        True, description="Whether the reasoning of answers carries loss; it is in the conversation in any case."
    )
    system_prompt: Annotated[str | None, Shown("Data")] = Field(
        None,
        description="System message for rows that carry none. null: whatever the chat template does by itself.",
    )
    template_date: Annotated[TemplateDate, Shown("Data")] = Field(
        "auto",
        description="The date that some chat templates write (Llama 3.2, Mistral Small). `auto`: of the day on which "
        "the training first started, kept with the adapter, so that it is resumed and asked as trained; `today`: "
        "of each day; or a date such as 2026-11-28.",
    )
    allow_tokens: Annotated[list[str], Shown("Data")] = Field(
        [],
        examples=['["<|box_start|>"]'],
        description="Control tokens that belong into answers, such as `[<|box_start|>, <|box_end|>]`: in answers they "
        "are the real tokens, in questions they stay text. Others spelt out in an answer drop the row.",
    )
    add_tokens: Annotated[list[str], Shown("Data")] = Field(
        [],
        examples=["[<doc>, <cite>]"],
        description="Tokens of your own, such as `[<doc>, <cite>]`: wherever one is written it is a single token, "
        "whose row of the embedding (and of an output layer that is not tied to it) is trained. Tokenizer and rows are "
        "saved with the adapter.",
    )
    max_length: Annotated[int, Shown("Data")] = Field(
        1024,
        ge=8,
        le=1_000_000,
        description="Longest row in tokens. A longer row loses the beginning of its prompt; one whose answer alone "
        "does not fit is dropped and named.",
    )

    min_pixels: Annotated[int, Shown("Data")] = Field(
        65_536, ge=1, le=100_000_000, description="Pictures with fewer pixels are enlarged to about so many."
    )
    max_pixels: Annotated[int, Shown("Data")] = Field(
        262_144,
        ge=1,
        le=100_000_000,
        description="Pictures with more pixels are reduced to at most so many. 262144 make up to 256 tokens "
        "of Qwen3-VL.",
    )

    lora_r: Annotated[int, Shown("LoRA", flag=True)] = Field(
        16, ge=1, le=4096, description="Rank of the two matrices added to each adapted layer."
    )
    lora_alpha: Annotated[float, Shown("LoRA", flag=True)] = Field(
        32, gt=0, le=100_000, description="Scaling: the adapter's output is multiplied by lora_alpha / lora_r."
    )
    lora_dropout: Annotated[float, Shown("LoRA")] = Field(
        0.0, ge=0, lt=1, description="Dropout on the input of the adapter while training."
    )
    target_modules: Annotated[TargetModules, Shown("LoRA")] = Field(
        "all-linear",
        description="Which linear layers get an adapter: a list of names, or `all-linear`, which learns more than "
        "attention alone with as many parameters. Of a vision-language model, "
        "those of its language model.",
    )
    train_vision: Annotated[bool, Shown("LoRA")] = Field(
        False, description="Give the linear layers of a vision-language model's vision tower an adapter too."
    )
    train_projector: Annotated[bool, Shown("LoRA")] = Field(
        False, description="Give the layers between vision tower and language model an adapter too."
    )

    output_dir: Annotated[str, Shown("Training", flag=True, changes_result=False)] = Field(
        "./output", min_length=1, description="Folder for the adapter, the records, the curve and the checkpoints."
    )
    num_train_epochs: Annotated[float, Shown("Training", flag=True)] = Field(
        10, gt=0, le=100_000, description="Passes over the training rows."
    )
    per_device_train_batch_size: Annotated[int, Shown("Training", flag=True)] = Field(
        4, ge=1, le=65_536, description="Rows per device in one forward and backward pass."
    )
    gradient_accumulation_steps: Annotated[int, Shown("Training")] = Field(
        1, ge=1, le=65_536, description="Passes whose gradients are added up before each optimizer step."
    )
    learning_rate: Annotated[Literal["auto"] | Annotated[float, Field(gt=0, le=10)], Shown("Training", flag=True)] = (
        Field(
            "auto",
            description="Peak learning rate of the adapter. `auto`: 5e-4 * (2000 / hidden size)^p, p 0.078 for Qwen "
            "and 0.78 for all others, times 1.5 under 100 steps, between 1e-4 and 2e-3 (the rule of the "
            "[Tinker cookbook](https://github.com/thinking-machines-lab/tinker-cookbook); "
            "[LoRA Without Regret](https://thinkingmachines.ai/blog/lora/)).",
        )
    )
    max_tokens_per_microbatch: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=16)], Shown("Training", changes_result=False)
    ] = Field(
        "auto",
        description="Tokens computed at once, at least 16; the rows of a step are cut into as many passes. Changes "
        "time and memory, never the result. `auto`: from the free memory.",
    )
    auto_fit: Annotated[bool, Shown("Training", changes_result=False)] = Field(
        False,
        description="Where a run does not fit into memory, change what `--task plan` names under `to change`: fewer "
        "tokens at once, activation checkpointing, on a GPU also weights in 8 or 4 bits. Each change is said and kept.",
    )
    compile_layers: Annotated[Literal["auto"] | bool, Shown("Training", changes_result=False)] = Field(
        "auto",
        description="Compile the decoder layers with torch.compile: costs half a minute once and saves a tenth of each "
        "step or more. `auto`: where the training is estimated to take ten minutes or more and a compiler is there.",
    )
    cpu_kernels: Annotated[bool, Shown("Training", changes_result=False)] = Field(
        True,
        description="On a CPU compute attention, norms and activations with lorakit's own C++, which the g++ of this "
        "machine compiles once, in two seconds. false, or where there is none: with PyTorch, a quarter more slowly.",
    )
    seed: Annotated[int, Shown("Training")] = Field(
        42, ge=0, le=2**32 - 1, description="Seed of the adapter's first values, row order, dropout and sampling."
    )
    resume: Annotated[Literal["auto", "force"] | bool, Shown("Training", changes_result=False)] = Field(
        False,
        description="Continue from the newest whole checkpoint in `output_dir`, with the same rows, model and "
        "settings. `auto`: where there is one, else begin anew, for machines that are taken away and started again; "
        "`force`: even with other rows, model or settings.",
    )
    early_stopping_patience: Annotated[int | None, Shown("Training")] = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Stop after so many validations in a row without a better loss, and keep the best adapter. null: "
        "train all epochs.",
    )
    load_best_model: Annotated[Literal["auto"] | bool, Shown("Training")] = Field(
        "auto",
        description="At the end keep the adapter of the best validation loss rather than the last one. `auto`: where "
        "there are validation rows, unless `trainer_args` has validation and checkpoints at different steps.",
    )
    replay: Annotated[int, Shown("Training")] = Field(
        0,
        ge=0,
        le=100_000,
        description="So many general questions are answered by the base before training, and its answers trained with "
        "the rows, so that less else is forgotten. Published: 100 of them cut the loss of general knowledge from 0.35 "
        "to 0.07 at equal accuracy on the target ([openreview](https://openreview.net/forum?id=AmQVxvyRJC)).",
    )
    replay_file: Annotated[str | None, Shown("Training", changes_result=False)] = Field(
        None,
        min_length=1,
        description="File of rows with these questions. null: 100 that lorakit brings, in Chinese and English.",
    )
    advise_ranks: Annotated[LoraRanks, Shown("Training", changes_result=False)] = Field(
        [],
        description="Other ranks that `--task advise` tries with the best learning rate, such as [8, 32]; lora_alpha "
        "stays.",
    )
    trainer_args: Annotated[dict[str, Any], Shown("Training", changes_result=False)] = Field(
        {},
        examples=["{save_steps: 50, save_strategy: steps}"],
        description="Any further field of `transformers.TrainingArguments`: schedulers, trackers (`report_to`), "
        "saving policy, FSDP.",
    )
