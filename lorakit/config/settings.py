"""Every setting of lorakit, once: name, type, default, bounds and help.

The YAML keys, the command line flags, the help texts and docs/settings.md are all made from `Config`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

_TRANSFORMERS_SAVE_STEPS = 500  # where trainer_args has none
SECTIONS = ("Model", "Data", "LoRA", "Training", "Generation", "Evaluation", "Export", "Terminal")


@dataclass(frozen=True)
class Shown:
    """How a setting is shown: its section, and whether it has a flag of its own."""

    section: str
    flag: bool = False


def _targets(value: Any) -> Any:
    is_names = isinstance(value, list) and value and all(isinstance(name, str) and name for name in value)
    if is_names or value == "all-linear":
        return value
    raise PydanticCustomError(
        "targets", "must be a list of layer names such as [q_proj, v_proj], or the word all-linear"
    )


TargetModules = Annotated[list[str] | str, BeforeValidator(_targets)]


def _paths(value: Any) -> Any:
    listed = [value] if isinstance(value, str) else value
    if isinstance(listed, list) and all(isinstance(path, str) and path for path in listed):
        return listed
    raise PydanticCustomError("paths", "must be a path or a list of paths")


Paths = Annotated[list[str], BeforeValidator(_paths)]


def _template_date(value: Any) -> Any:
    if isinstance(value, datetime.date):  # YAML's own reading
        value = value.isoformat()[:10]
    if value in ("auto", "today"):
        return value
    try:
        return datetime.date.fromisoformat(value).isoformat()
    except (TypeError, ValueError):
        raise PydanticCustomError("date", "must be auto, today or a date such as 2026-11-28") from None


TemplateDate = Annotated[str, BeforeValidator(_template_date)]


def _lora_ranks(value: Any) -> Any:
    listed = [value] if isinstance(value, int) else value
    is_ranks = isinstance(listed, list) and all(type(rank) is int and 1 <= rank <= 4096 for rank in listed)
    if is_ranks:
        return listed
    raise PydanticCustomError("ranks", "must be a list of ranks from 1 to 4096 such as [8, 32]")


LoraRanks = Annotated[list[int], BeforeValidator(_lora_ranks)]


class RowSource(BaseModel):
    """One of several files of rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    path: str = Field(min_length=1)
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    max_rows: Annotated[int, Field(ge=1)] | None = None
    split: Annotated[str, Field(min_length=1)] | None = None
    config: Annotated[str, Field(min_length=1)] | None = None


_LEAST_TEMPERATURE = 0.001  # what scores are divided by; less is the most likely token, or beyond float32
_SOURCE_KEYS = ", ".join(RowSource.model_fields)


def _row_sources(value: Any) -> Any:
    """Read a path, or a list of paths and of mappings with one."""
    if isinstance(value, str) and value:
        return value
    listed = value if isinstance(value, list) else [value]
    try:
        sources = [
            one if isinstance(one, RowSource) else RowSource(**({"path": one} if isinstance(one, str) else one))
            for one in listed
        ]
    except (ValidationError, TypeError):
        sources = []
    if not sources:
        raise PydanticCustomError("sources", f"must be a path, or a list of paths and mappings ({_SOURCE_KEYS})")
    return sources


RowSources = Annotated[str | list[RowSource], BeforeValidator(_row_sources)]
Meaning = Literal[
    "text", "target", "input", "system", "history", "reasoning", "tools", "images", "messages", "conversations", "chat"
]


def _path(value: Any) -> Any:
    listed = value if isinstance(value, list) else [value]
    paths = [one.path if isinstance(one, RowSource) else one for one in listed]
    if any(isinstance(path, str) and "\0" in path for path in paths):
        raise PydanticCustomError("nul", "must be without NUL characters, which no file name can have")
    return value


class Config(BaseModel):
    """One validated, immutable configuration of one task."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    model_name_or_path: Annotated[str, Shown("Model", flag=True)] = Field(
        "starter",
        min_length=1,
        description="The base model: `starter` (a small real model, fetched once), a local folder, or a hub name "
        "such as `Qwen/Qwen3-1.7B`.",
    )
    model_hub: Annotated[Literal["huggingface", "modelscope"], Shown("Model")] = Field(
        "huggingface",
        description="Where hub names are looked up. `modelscope` needs `pip install -e .[modelscope]`.",
    )
    trust_remote_code: Annotated[bool, Shown("Model")] = Field(
        False,
        description="Run the Python code that some models bring with them (`auto_map` in their config.json). It can do "
        "whatever you can: read it first.",
    )
    torch_dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], Shown("Model")] = Field(
        "auto",
        description="Number format of the frozen base weights. `auto` chooses by device and by measurement and says "
        "why. `float16` on a CPU: the large matrices alone, where the processor multiplies it fast, else replaced. "
        "The adapter itself is always float32.",
    )

    load_in_4bit: Annotated[bool, Shown("Model")] = Field(
        False,
        description="Hold the frozen base weights in 4 bits (NF4, QLoRA): a quarter of their memory for some "
        "precision. Needs `pip install -e .[quantized]`.",
    )
    load_in_8bit: Annotated[bool, Shown("Model")] = Field(
        False, description="The same in 8 bits (LLM.int8): half of their memory."
    )

    train_file: Annotated[RowSources, Shown("Data", flag=True)] = Field(
        "data/train.json",
        description="Training rows: a JSON, JSON Lines, CSV, Parquet or Excel file, a folder of them, or the name of a "
        "Hub dataset. A list mixes several, each a path or `{path, weight, max_rows, split, config}`: weight 2 trains "
        "the rows twice in each epoch, 0.5 half of them; split and config are those of a Hub dataset.",
    )
    validation_file: Annotated[RowSources | None, Shown("Data", flag=True)] = Field(
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
    validation_share: Annotated[float | None, Shown("Data")] = Field(
        None,
        gt=0,
        lt=1,
        description="Hold back this share of the training rows in place of a `validation_file`, by question: none "
        "stands on both sides.",
    )
    max_rows: Annotated[int | None, Shown("Data")] = Field(
        None, ge=1, description="Only the first so many rows of each file. null: all."
    )
    encoding: Annotated[str | None, Shown("Data")] = Field(
        None,
        min_length=1,
        description="Encoding of text files that are not UTF-8, such as `cp1252`. null: by evidence, which is printed; "
        "where that leaves a doubt, the run stops and asks.",
    )
    map_fields: Annotated[dict[str, Meaning], Shown("Data")] = Field(
        {},
        description="Further fields and what they mean: `{passage: input}` puts a passage after the question. "
        "Meanings: text, target, input, system, history, reasoning, tools, images, messages, conversations, chat (all "
        "of a conversation as one text).",
    )
    ignore_fields: Annotated[list[str], Shown("Data")] = Field(
        [],
        description="Fields that are left out on purpose, such as `[explanation]` or "
        '`["messages[].weight"]`; also those that would be read.',
    )
    train_turns: Annotated[Literal["all", "last", "marked"], Shown("Data")] = Field(
        "all",
        description="Which answers of a conversation carry loss: `all` but those that their turn switches off "
        "(`weight`, `loss` or `train` 0, `masked` 1), the `last` one alone, or only those that are `marked` (the same "
        "with 1; `masked` 0).",
    )
    train_reasoning: Annotated[bool, Shown("Data")] = Field(
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
        description="Control tokens that belong into answers, such as `[<|box_start|>, <|box_end|>]`: in answers they "
        "are the real tokens, in questions they stay text. Others spelt out in an answer drop the row.",
    )
    add_tokens: Annotated[list[str], Shown("Data")] = Field(
        [],
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

    output_dir: Annotated[str, Shown("Training", flag=True)] = Field(
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
    max_tokens_per_microbatch: Annotated[Literal["auto"] | Annotated[int, Field(ge=16)], Shown("Training")] = Field(
        "auto",
        description="Tokens computed at once, at least 16; the rows of a step are cut into as many passes. Changes "
        "time and memory, never the result. `auto`: from the free memory.",
    )
    auto_fit: Annotated[bool, Shown("Training")] = Field(
        False,
        description="Where a run does not fit into memory, change what `--task plan` names under `to change`: fewer "
        "tokens at once, activation checkpointing, on a GPU also weights in 8 or 4 bits. Each change is said and kept.",
    )
    compile_layers: Annotated[Literal["auto"] | bool, Shown("Training")] = Field(
        "auto",
        description="Compile the decoder layers with torch.compile: costs half a minute once and saves a tenth of each "
        "step or more. `auto`: where the training is estimated to take ten minutes or more and a compiler is there.",
    )
    cpu_kernels: Annotated[bool, Shown("Training")] = Field(
        True,
        description="On a CPU compute attention, norms and activations with lorakit's own C++, which the g++ of this "
        "machine compiles once, in two seconds. false, or where there is none: with PyTorch, a quarter more slowly.",
    )
    seed: Annotated[int, Shown("Training")] = Field(
        42, ge=0, le=2**32 - 1, description="Seed of the adapter's first values, row order, dropout and sampling."
    )
    resume: Annotated[Literal["auto", "force"] | bool, Shown("Training")] = Field(
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
    replay_file: Annotated[str | None, Shown("Training")] = Field(
        None,
        min_length=1,
        description="File of rows with these questions. null: 100 that lorakit brings, in Chinese and English.",
    )
    advise_ranks: Annotated[LoraRanks, Shown("Training")] = Field(
        [],
        description="Other ranks that `--task advise` tries with the best learning rate, such as [8, 32]; lora_alpha "
        "stays.",
    )
    trainer_args: Annotated[dict[str, Any], Shown("Training")] = Field(
        {},
        description="Any further field of `transformers.TrainingArguments`: schedulers, trackers (`report_to`), "
        "saving policy, FSDP.",
    )

    lora_model_path: Annotated[Paths | None, Shown("Generation", flag=True)] = Field(
        None,
        description="Adapter to attach, or several: `PATH`, `NAME=PATH`, either with `:WEIGHT` behind it. Inference "
        "begins with the first; merge and export make them one (`combination`). null: `lora_model` in `output_dir`.",
    )
    question: Annotated[str | None, Shown("Generation", flag=True)] = Field(
        None, min_length=1, description="Answer this one question, of several lines where need be, and leave."
    )
    question_file: Annotated[str | None, Shown("Generation", flag=True)] = Field(
        None,
        min_length=1,
        description="Answer every question of a file of rows, several at once and in order, into `answer_file`. An "
        "interrupted run goes on where it stopped.",
    )
    answer_file: Annotated[str | None, Shown("Generation", flag=True)] = Field(
        None,
        min_length=1,
        description="JSON Lines: each question with its answer as `generated`. null: `NAME.answers.jsonl` beside "
        "`question_file`.",
    )
    jsonl: Annotated[bool, Shown("Generation", flag=True)] = Field(
        False,
        description='Read questions from standard input as JSON Lines (`{"text": ...}`, `messages`, or a text) and '
        "write JSON Lines.",
    )
    image: Annotated[Paths, Shown("Generation", flag=True)] = Field(
        [],
        description="Pictures that every question of the session is about; give the flag once for each. In the "
        "session, `/image PATH ...` chooses others and `/image` none.",
    )
    tools: Annotated[str | None, Shown("Generation", flag=True)] = Field(
        None,
        min_length=1,
        description="JSON file with the tools that may be called, for inference and for rows of an evaluation that "
        "have none of their own.",
    )
    use_original_model: Annotated[bool, Shown("Generation", flag=True)] = Field(
        False, description="Leave the adapter out and use the base model alone."
    )
    max_new_tokens: Annotated[int, Shown("Generation", flag=True)] = Field(
        256, ge=1, le=1_000_000, description="Longest answer in tokens."
    )
    temperature: Annotated[float, Shown("Generation", flag=True)] = Field(
        0.0, ge=0, le=100, description="Randomness of sampling. 0 always takes the most likely token (greedy)."
    )
    top_p: Annotated[float, Shown("Generation", flag=True)] = Field(
        1.0, gt=0, le=1, description="Sample among the most likely tokens that together have this probability."
    )
    repetition_penalty: Annotated[float, Shown("Generation", flag=True)] = Field(
        1.0, ge=0.01, le=100, description="Above 1, tokens that already stand in prompt or answer become less likely."
    )
    thinking: Annotated[Literal["auto"] | bool, Shown("Generation")] = Field(
        "auto",
        description="Let reasoning models such as Qwen3 think before they answer. `auto`: as the adapter's training "
        "rows did; without an adapter, no.",
    )
    decode_weights: Annotated[Literal["auto", "same", "int8", "int4"], Shown("Generation", flag=True)] = Field(
        "auto",
        description="On a CPU, how answers read the base weights of Llama, Mistral, Qwen2 and Qwen3 models: as they "
        "are held (`same`), or packed into 8 or 4 bits, which takes less time a token and more memory. `auto`: 8 bits "
        "where the greedy answers to validation rows were the same (`--task evaluate` and the end of a training find "
        "out), else `same`. Merging, exporting, their proofs and what a training evaluates always take `same`.",
    )
    clean_repetition: Annotated[bool, Shown("Generation")] = Field(
        True, description="Cut loops (the same sentence over and over) out of answers in the interactive session."
    )

    per_device_eval_batch_size: Annotated[int, Shown("Evaluation")] = Field(
        8, ge=1, le=65_536, description="Rows answered at once in evaluation."
    )
    max_generated_rows: Annotated[int | None, Shown("Evaluation")] = Field(
        None,
        ge=1,
        description="Answer only the first so many validation rows. null: all in `--task evaluate`, at most 20 at "
        "the end of training.",
    )

    format: Annotated[Literal["gguf", "peft"], Shown("Export", flag=True)] = Field(
        "gguf",
        description="What `--task export` writes: `gguf` for llama.cpp and Ollama, or `peft`, the adapter alone.",
    )
    export_dir: Annotated[str | None, Shown("Export", flag=True)] = Field(
        None,
        min_length=1,
        description="Folder for what `--task merge` and `--task export` write. null: `merged`, `gguf` or `peft` in "
        "`output_dir`.",
    )
    export_dtype: Annotated[
        Literal["auto", "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"], Shown("Export")
    ] = Field(
        "auto",
        description="Number format of what is written. `auto`: that of the base's files, for `format: peft` f32; "
        "`q8_0` and what has fewer bits are for `gguf` only; the latter are made by llama.cpp's Python package.",
    )
    combination: Annotated[Literal["cat", "linear", "svd", "ties", "dare_linear", "dare_ties"], Shown("Export")] = (
        Field(
            "cat",
            description="How several adapters become one: `cat` adds up their outputs exactly; the others are PEFT's.",
        )
    )
    density: Annotated[float, Shown("Export")] = Field(
        0.5, gt=0, le=1, description="Share of the values that `ties`, `dare_linear` and `dare_ties` keep."
    )
    adapter_keys: Annotated[dict[str, str], Shown("Export")] = Field(
        {},
        description="For `format: peft`: beginnings of tensor names and what to write in their place, for tools that "
        "expect other names.",
    )
    proof_questions: Annotated[int, Shown("Export")] = Field(
        20,
        ge=1,
        le=100_000,
        description="Questions of `validation_file` that are answered again by what was merged or exported.",
    )
    push_to: Annotated[str | None, Shown("Export", flag=True)] = Field(
        None, min_length=1, description="Repository on `model_hub` that `--task push` sends to: `owner/name`."
    )
    push_private: Annotated[bool, Shown("Export")] = Field(
        True,
        description="Make that repository a private one; one that is public already is not sent to (Hugging Face).",
    )
    push_confirmed: Annotated[bool, Shown("Export")] = Field(
        False, description="Send without asking, for scripts. Otherwise `--task push` shows the files and asks."
    )

    language: Annotated[Literal["auto", "en", "zh"], Shown("Terminal", flag=True)] = Field(
        "auto", description="Language of messages, help and report. `auto`: by LC_ALL, LC_MESSAGES or LANG."
    )
    verbose: Annotated[bool, Shown("Terminal", flag=True)] = Field(
        False, description="Say every detail: what was decided and why, what was tried, where memory goes."
    )

    @field_validator("temperature")
    @classmethod
    def _check_temperature(cls, value: float) -> float:
        if 0 < value < _LEAST_TEMPERATURE:
            raise PydanticCustomError("temperature", f"must be 0, or at least {_LEAST_TEMPERATURE}")
        return value

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str | None) -> str | None:
        try:
            is_known = value is None or "".encode(value) == "".encode(value)
        except (LookupError, ValueError):
            is_known = False
        if not is_known:
            raise PydanticCustomError("encoding", "must be an encoding that Python knows, such as cp1252 or gb18030")
        return value

    @property
    def has_validation(self) -> bool:
        """Whether there are rows to validate on."""
        return self.validation_file is not None or self.validation_share is not None

    @property
    def keeps_best(self) -> bool:
        """Whether validation decides which adapter is kept at the end."""
        named = self.trainer_args.get("load_best_model_at_end")
        if self.early_stopping_patience or named or self.load_best_model != "auto":
            return bool(self.early_stopping_patience or named or self.load_best_model)
        return named is None and self.has_validation and self._saves_where_it_validates

    @property
    def _saves_where_it_validates(self) -> bool:
        """Whether there is a checkpoint at every validation, as transformers asks for where the best one is kept."""
        given: dict[str, Any] = {
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "logging_steps": 1,
        } | self.trainer_args
        if given["save_strategy"] not in (given["eval_strategy"], "best") or given["eval_strategy"] == "no":
            return False
        if given["save_strategy"] != "steps":
            return True
        to_save = given.get("save_steps", _TRANSFORMERS_SAVE_STEPS)
        to_validate = given.get("eval_steps") or given["logging_steps"]
        is_whole = isinstance(to_save, int) and isinstance(to_validate, int)
        return is_whole and to_validate > 0 and to_save % to_validate == 0

    check_paths = field_validator(
        "model_name_or_path",
        "train_file",
        "validation_file",
        "replay_file",
        "output_dir",
        "lora_model_path",
        "image",
        "tools",
        "export_dir",
    )(_path)


@dataclass(frozen=True)
class Setting:
    """One setting as documentation and command line see it."""

    name: str
    section: str
    has_flag: bool
    default: Any
    description: str
    type_text: str
    bounds_text: str


def _type_text(annotation: Any) -> str:
    names = {
        TargetModules: "list of names or all-linear",
        Paths: "path or list of paths",
        RowSources: "path, or list of paths and mappings",
        RowSources | None: "path, list of paths and mappings, or null",
        float | None: "number or null",
        Paths | None: "path, list of paths or null",
        TemplateDate: "auto, today or a date",
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        str | None: "text or null",
        int | None: "whole number or null",
        dict[str, Any]: "mapping",
        dict[str, str]: "mapping",
        dict[str, Meaning]: "mapping",
        list[str]: "list of names",
        LoraRanks: "list of whole numbers",
    }
    if annotation in names:
        return names[annotation]
    plain = {bool: ("true", "false"), int: ("a whole number",), float: ("a number",)}
    choices: list[str] = []
    for part in [annotation] if get_origin(annotation) is Literal else get_args(annotation):
        kind = get_args(part)[0] if get_origin(part) is Annotated else part
        choices += plain.get(kind) or get_args(kind)
    return ", ".join(choices[:-1]) + " or " + choices[-1]


BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def number_text(number: float) -> str:
    """Write a bound as a person would: 1000000 and 0.1, not 1e+06 and 0.10000."""
    return str(int(number)) if number == int(number) else f"{number:g}"


def _bounds_text(metadata: list[Any]) -> str:
    found = [(word, getattr(item, name)) for item in metadata for name, word in BOUNDS.items() if hasattr(item, name)]
    return " and ".join(f"{word} {number_text(bound)}" for word, bound in found)


def settings() -> list[Setting]:
    """List every setting in the order of the class, which is the order of the documentation."""
    listed = []
    for name, field in Config.model_fields.items():
        shown = next(item for item in field.metadata if isinstance(item, Shown))
        declared = {
            "template_date": TemplateDate,
            "target_modules": TargetModules,
            "train_file": RowSources,
            "validation_file": RowSources | None,
            "image": Paths,
            "advise_ranks": LoraRanks,
            "lora_model_path": Paths | None,
        }
        listed.append(
            Setting(
                name=name,
                section=shown.section,
                has_flag=shown.flag,
                default=field.default,
                description=field.description or "",
                type_text=_type_text(declared.get(name, field.annotation)),
                bounds_text=_bounds_text(field.metadata),
            )
        )
    return listed


def shown_value(value: Any) -> str:
    """Write a default as it would stand in a configuration."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
