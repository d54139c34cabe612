"""Every setting of lorakit, once: name, type, default, bounds and help.

The YAML keys, the command line flags, the help texts and docs/settings.md are all made from `Config`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from lorakit.config.kinds import LEAST_TEMPERATURE, Paths, Shown, check_path
from lorakit.config.training_settings import TrainingSettings

_TRANSFORMERS_SAVE_STEPS = 500  # where trainer_args has none


class Config(TrainingSettings):
    """One validated, immutable configuration of one task."""

    lora_model_path: Annotated[Paths | None, Shown("Generation", flag=True, changes_result=False)] = Field(
        None,
        description="Adapter to attach, or several: `PATH`, `NAME=PATH`, either with `:WEIGHT` behind it. Inference "
        "begins with the first; merge and export make them one (`combination`). null: `lora_model` in `output_dir`.",
    )
    question: Annotated[str | None, Shown("Generation", flag=True, changes_result=False)] = Field(
        None, min_length=1, description="Answer this one question, of several lines where need be, and leave."
    )
    question_file: Annotated[str | None, Shown("Generation", flag=True, changes_result=False)] = Field(
        None,
        min_length=1,
        description="Answer every question of a file of rows, several at once and in order, into `answer_file`. An "
        "interrupted run goes on where it stopped.",
    )
    answer_file: Annotated[str | None, Shown("Generation", flag=True, changes_result=False)] = Field(
        None,
        min_length=1,
        description="JSON Lines: each question with its answer as `generated`. null: `NAME.answers.jsonl` beside "
        "`question_file`.",
    )
    jsonl: Annotated[bool, Shown("Generation", flag=True, changes_result=False)] = Field(
        False,
        description='Read questions from standard input as JSON Lines (`{"text": ...}`, `messages`, or a text) and '
        "write JSON Lines.",
    )
    image: Annotated[Paths, Shown("Generation", flag=True, changes_result=False)] = Field(
        [],
        description="Pictures that every question of the session is about; give the flag once for each. In the "
        "session, `/image PATH ...` chooses others and `/image` none.",
    )
    tools: Annotated[str | None, Shown("Generation", flag=True, changes_result=False)] = Field(
        None,
        min_length=1,
        description="JSON file with the tools that may be called, for inference and for rows of an evaluation that "
        "have none of their own.",
    )
    use_original_model: Annotated[bool, Shown("Generation", flag=True, changes_result=False)] = Field(
        False, description="Leave the adapter out and use the base model alone."
    )
    max_new_tokens: Annotated[int, Shown("Generation", flag=True, changes_result=False)] = Field(
        256, ge=1, le=1_000_000, description="Longest answer in tokens."
    )
    temperature: Annotated[float, Shown("Generation", flag=True, changes_result=False)] = Field(
        0.0, ge=0, le=100, description="Randomness of sampling. 0 always takes the most likely token (greedy)."
    )
    top_p: Annotated[float, Shown("Generation", flag=True, changes_result=False)] = Field(
        1.0, gt=0, le=1, description="Sample among the most likely tokens that together have this probability."
    )
    repetition_penalty: Annotated[float, Shown("Generation", flag=True, changes_result=False)] = Field(
        1.0, ge=0.01, le=100, description="Above 1, tokens that already stand in prompt or answer become less likely."
    )
    thinking: Annotated[Literal["auto"] | bool, Shown("Generation", changes_result=False)] = Field(
        "auto",
        description="Let reasoning models such as Qwen3 think before they answer. `auto`: as the adapter's training "
        "rows did; without an adapter, no.",
    )
    decode_weights: Annotated[
        Literal["auto", "same", "int8", "int4"], Shown("Generation", flag=True, changes_result=False)
    ] = Field(
        "auto",
        description="On a CPU, how answers read the base weights of Llama, Mistral, Qwen2 and Qwen3 models: as they "
        "are held (`same`), or packed into 8 or 4 bits, which takes less time a token and more memory. `auto`: 8 bits "
        "where the greedy answers to validation rows were the same (`--task evaluate` and the end of a training find "
        "out), else `same`. Merging, exporting, their proofs and what a training evaluates always take `same`.",
    )
    clean_repetition: Annotated[bool, Shown("Generation", changes_result=False)] = Field(
        True, description="Cut loops (the same sentence over and over) out of answers in the interactive session."
    )

    per_device_eval_batch_size: Annotated[int, Shown("Evaluation", changes_result=False)] = Field(
        8, ge=1, le=65_536, description="Rows answered at once in evaluation."
    )
    max_generated_rows: Annotated[int | None, Shown("Evaluation", changes_result=False)] = Field(
        None,
        ge=1,
        description="Answer only the first so many validation rows. null: all in `--task evaluate`, at most 20 at "
        "the end of training.",
    )

    format: Annotated[Literal["gguf", "peft"], Shown("Export", flag=True, changes_result=False)] = Field(
        "gguf",
        description="What `--task export` writes: `gguf` for llama.cpp and Ollama, or `peft`, the adapter alone.",
    )
    export_dir: Annotated[str | None, Shown("Export", flag=True, changes_result=False)] = Field(
        None,
        min_length=1,
        description="Folder for what `--task merge` and `--task export` write. null: `merged`, `gguf` or `peft` in "
        "`output_dir`.",
    )
    export_dtype: Annotated[
        Literal["auto", "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"], Shown("Export", changes_result=False)
    ] = Field(
        "auto",
        description="Number format of what is written. `auto`: that of the base's files, for `format: peft` f32; "
        "`q8_0` and what has fewer bits are for `gguf` only; the latter are made by llama.cpp's Python package.",
    )
    combination: Annotated[
        Literal["cat", "linear", "svd", "ties", "dare_linear", "dare_ties"], Shown("Export", changes_result=False)
    ] = Field(
        "cat",
        description="How several adapters become one: `cat` adds up their outputs exactly; the others are PEFT's.",
    )
    density: Annotated[float, Shown("Export", changes_result=False)] = Field(
        0.5, gt=0, le=1, description="Share of the values that `ties`, `dare_linear` and `dare_ties` keep."
    )
    adapter_keys: Annotated[dict[str, str], Shown("Export", changes_result=False)] = Field(
        {},
        description="For `format: peft`: beginnings of tensor names and what to write in their place, for tools that "
        "expect other names.",
    )
    proof_questions: Annotated[int, Shown("Export", changes_result=False)] = Field(
        20,
        ge=1,
        le=100_000,
        description="Questions of `validation_file` that are answered again by what was merged or exported.",
    )
    push_to: Annotated[str | None, Shown("Export", flag=True, changes_result=False)] = Field(
        None, min_length=1, description="Repository on `model_hub` that `--task push` sends to: `owner/name`."
    )
    push_private: Annotated[bool, Shown("Export", changes_result=False)] = Field(
        True,
        description="Make that repository a private one; one that is public already is not sent to (Hugging Face).",
    )
    push_confirmed: Annotated[bool, Shown("Export", changes_result=False)] = Field(
        False, description="Send without asking, for scripts. Otherwise `--task push` shows the files and asks."
    )

    language: Annotated[Literal["auto", "en", "zh"], Shown("Terminal", flag=True, changes_result=False)] = Field(
        "auto", description="Language of messages, help and report. `auto`: by LC_ALL, LC_MESSAGES or LANG."
    )
    verbose: Annotated[bool, Shown("Terminal", flag=True, changes_result=False)] = Field(
        False, description="Say every detail: what was decided and why, what was tried, where memory goes."
    )

    @field_validator("temperature")
    @classmethod
    def _check_temperature(cls, value: float) -> float:
        if 0 < value < LEAST_TEMPERATURE:
            raise PydanticCustomError("temperature", f"must be 0, or at least {LEAST_TEMPERATURE}")
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

    @field_validator("trainer_args")
    @classmethod
    def _read_no_as_a_word(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take ``save_strategy: no`` as it is meant: YAML reads a bare ``no`` as false."""
        return {name: "no" if value is False and name.endswith("_strategy") else value for name, value in given.items()}

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
    )(check_path)
