"""``--task merge``: an adapter, or several, computed into a full model that needs neither lorakit nor PEFT."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import ChatFormat, Message
from lorakit.engine import peak_bytes
from lorakit.errors import ProofError, SettingsError
from lorakit.export.checkpoint import read_checkpoint, write_checkpoint
from lorakit.export.merged import FORMATS, merged_tensors, unties_head
from lorakit.export.proof import Reader, prove, questions_of, references, unproven
from lorakit.inference import Adapters, Assistant, open_adapters
from lorakit.model_config import locate_model, quantization_of, weights_hash
from lorakit.model_config.trust import first_line

MERGED_FOLDER = "merged"
_NAMES = {dtype: name for name, dtype in FORMATS.items()}
_SMALL_BYTES = 10**9  # of a base's files


def run(config: Config) -> int:
    """Merge, prove, and leave the model in ``export_dir``."""
    started = time.perf_counter()
    folder = export_folder(config, MERGED_FOLDER)
    with unproven(folder) as writing:
        adapters = open_combined(config)
        merge(adapters, config, writing)
    seconds = time.perf_counter() - started
    console.note(f"merged: {folder} ({seconds:.0f} s, peak memory {peak_bytes(torch.device('cpu')) / 1e9:.2f} GB)")
    return 0


def export_folder(config: Config, default: str) -> Path:
    """Return where a task of this room writes."""
    return Path(config.export_dir) if config.export_dir else Path(config.output_dir) / default


def open_combined(config: Config) -> Adapters:
    """Load the base and what is to be merged into it, several adapters made one.

    Raises:
        SettingsError: There is no adapter to merge, or the base would be quantised.
    """
    if config.use_original_model:
        raise SettingsError("use_original_model: there is no adapter to merge", "leave it out")
    if bits := quantization_of(config):
        raise SettingsError(
            f"load_in_{bits}: an adapter is merged into the full weights of its base", f"set load_in_{bits}: false"
        )
    adapters = open_adapters(_computed_exactly(config))
    weights = {choice.name: choice.weight for choice in adapters.choices}
    if len(weights) > 1:
        adapters.combine(weights, config.combination, config.density)
        console.note(f"{' + '.join(f'{name}:{weight:g}' for name, weight in weights.items())} by {config.combination}")
    return adapters


def _computed_exactly(config: Config) -> Config:
    """Compute a small model's proof in float32, so that nothing but the written weights makes a difference."""
    if config.torch_dtype != "auto":
        return config
    source = locate_model(config.model_name_or_path, config.model_hub, config.trust_remote_code)
    size = sum(file.stat().st_size for file in source.folder.glob("*.safetensors"))
    return config.model_copy(update={"torch_dtype": "float32"}) if size <= _SMALL_BYTES else config


def merge(adapters: Adapters, config: Config, folder: Path, closes: bool = True) -> None:
    """Write what is in use as a full model, and prove it.

    Args:
        adapters: With one adapter or a mixture in use.
        config: For the format and the questions.
        folder: Gets the model and its proof.
        closes: Free the model before the merged one is read, so that there is one of them in memory.

    Raises:
        ProofError: What was written is not the adapter on its base.
    """
    assistant = adapters.assistant
    with references(assistant, questions_of(config, assistant), config) as reference:
        written_as = write_merged(assistant, config, folder)
        facts, kind = facts_of(adapters), type(assistant.bundle.model.get_base_model())
        if closes:
            assistant = replace(assistant, bundle=replace(assistant.bundle, model=None))
            adapters.close()
        prove(plain_reader(folder, kind, assistant), assistant, reference, written_as, folder, facts)


def facts_of(adapters: Adapters) -> dict[str, Any]:
    """Return what a proof says of base and adapters: names and hashes, no paths."""
    source = adapters.assistant.bundle.source
    return {
        "base": source.reference if source.revision else Path(source.name).name,
        "base_fingerprint": source.fingerprint(),
        "adapters": [
            {"name": choice.name, "weight": choice.weight, "sha256": weights_hash(choice.folder)}
            for choice in adapters.made_of
        ],
    }


def write_merged(assistant: Assistant, config: Config, folder: Path) -> str:
    """Write weights, configuration, tokenizer and what else belongs to a model's folder.

    Returns:
        The coarsest number format of what was written: f32, f16 or bf16.

    Raises:
        SettingsError: ``export_dtype`` is for another kind of file.
    """
    if config.export_dtype not in {"auto", *FORMATS}:
        raise SettingsError(f"export_dtype: {config.export_dtype} is for GGUF files", "set f32, f16, bf16 or auto")
    source, model = assistant.bundle.source, assistant.bundle.model
    base = read_checkpoint(source.folder)
    dtype = FORMATS.get(config.export_dtype) or base.read(next(iter(base.shapes))).dtype
    tensors = merged_tensors(model, base, FORMATS.get(config.export_dtype))
    write_checkpoint(folder, tensors, dtype.itemsize)
    for file in sorted(source.folder.glob("*.json")):  # of processors and the like; those below are written anew
        if not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
    write_settings(assistant, dtype, folder)
    assistant.bundle.tokenizer.save_pretrained(str(folder))
    return _NAMES[dtype]


def write_settings(assistant: Assistant, dtype: torch.dtype, folder: Path) -> None:
    """Write config.json and generation_config.json: plain greedy answers that end where the adapter ends them."""
    from transformers import GenerationConfig

    own = assistant.bundle.model.get_base_model().config
    settings = own.__class__.from_dict(own.to_dict())
    settings.dtype = dtype
    if unties_head(assistant.bundle.model):
        settings.tie_word_embeddings = False
    settings.save_pretrained(str(folder))
    tokenizer = assistant.bundle.tokenizer
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=assistant.stop_ids,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else assistant.stop_ids[0],
    ).save_pretrained(str(folder))


def plain_reader(folder: Path, kind: Any, assistant: Assistant) -> Reader:
    """Read a model's folder as anybody would: transformers alone, in the number format of inference.

    Args:
        folder: Of the model.
        kind: Its class in transformers.
        assistant: For device and number format.
    """
    bundle = assistant.bundle

    def load() -> Any:
        try:
            model, report = kind.from_pretrained(
                str(folder),
                dtype=bundle.dtype.dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:  # a dozen classes, from safetensors' own to OSError
            raise ProofError(f"{folder}: cannot be read back ({first_line(error)})", "report this") from error
        if missing := sorted(report["missing_keys"]):
            raise ProofError(f"{folder}: lacks {len(missing)} tensors, {missing[0]} among them", "report this")
        return model.to(bundle.device).eval()

    return Reader("transformers", load, _prompts_by(folder, assistant))


def _prompts_by(folder: Path, assistant: Assistant) -> Callable[[Sequence[Message]], list[int]]:
    """Return how the written tokenizer, with the written template, encodes a conversation."""
    from transformers import AutoTokenizer

    def prompt_ids(messages: Sequence[Message]) -> list[int]:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        written = ChatFormat(tokenizer, assistant.chat_format.images)
        return replace(assistant, chat_format=written).prompt_ids(messages)

    return prompt_ids
