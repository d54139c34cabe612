"""``--task merge``: an adapter, or several, computed into a full model that needs neither lorakit nor PEFT."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import Message
from lorakit.engine import is_out_of_memory, peak_bytes
from lorakit.errors import ProofError
from lorakit.export.placing import unproven
from lorakit.export.producing import Written, export_folder, open_combined, produce
from lorakit.export.proving.proof import Reader, Reference
from lorakit.export.weights.checkpoint import read_checkpoint, write_checkpoint
from lorakit.export.weights.merged import FORMATS, NAMES, chosen_format, merged_tensors, unties_head
from lorakit.inference import Adapters, Assistant
from lorakit.invocation import command
from lorakit.model_config import ModelBundle, read_record
from lorakit.model_config.image_processor import PROCESSOR_FILE, write_trained_pixels
from lorakit.model_config.trust import first_line

MERGED_FOLDER = "merged"


def run(config: Config) -> int:
    """Merge, prove, and leave the model in ``export_dir``."""
    started = time.perf_counter()
    folder = export_folder(config, MERGED_FOLDER)
    with unproven(folder) as writing:
        produce(open_combined(config), config, writing, write_merged)
    seconds = time.perf_counter() - started
    console.note(f"merged: {folder} ({seconds:.0f} s, peak memory {peak_bytes(torch.device('cpu')) / 1e9:.2f} GB)")
    console.suggest("ask it", command("inference", "--model_name_or_path", str(folder), "--use_original_model"))
    return 0


def write_merged(adapters: Adapters, config: Config, reference: Reference, folder: Path) -> Written:
    """Write weights, configuration, tokenizer and what else belongs to a model's folder.

    Raises:
        SettingsError: ``export_dtype`` is for another kind of file.
    """
    assistant = adapters.assistant
    source, model = assistant.bundle.source, assistant.bundle.model
    base = read_checkpoint(source.folder)
    dtype = chosen_format(config, base)
    tensors = merged_tensors(model, base, FORMATS.get(config.export_dtype))
    write_checkpoint(folder, tensors, dtype.itemsize)
    patterns = ["*.json", "*.py"] if source.runs_own_code else ["*.json"]
    for file in sorted(file for pattern in patterns for file in source.folder.glob(pattern)):
        if not file.name.endswith(".index.json"):  # of processors and the like; those below are written anew
            shutil.copyfile(file, folder / file.name)
    write_settings(assistant, dtype, folder)
    records = [read_record(choice.folder) for choice in adapters.made_of]
    pixels = {record.pixels for record in records if record is not None and record.pixels is not None}
    if len(pixels) == 1 and (folder / PROCESSOR_FILE).is_file():
        write_trained_pixels(folder, pixels.pop())
    assistant.bundle.tokenizer.save_pretrained(str(folder))
    kind = type(model.get_base_model())
    return Written(NAMES[dtype], partial(_reader, folder, kind))


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


def _reader(folder: Path, kind: Any, assistant: Assistant) -> Reader:
    return Reader("transformers", partial(read_plainly, folder, kind, assistant.bundle), _prompts_by(folder, assistant))


def read_plainly(folder: Path, kind: Any, bundle: ModelBundle, **how: Any) -> Any:
    """Read a model as anybody would: by transformers alone, in the number format of inference.

    Args:
        folder: Of the model.
        kind: Its class in transformers.
        bundle: For device and number format.
        how: More arguments of ``from_pretrained``.

    Raises:
        ProofError: It cannot be read, or not whole.
    """
    try:
        with redirect_stderr(io.StringIO()):  # the progress bars of its GGUF loader
            model, report = kind.from_pretrained(
                str(folder),
                dtype=bundle.dtype.dtype,
                local_files_only=True,
                output_loading_info=True,
                **how,
            )
    except Exception as error:  # a dozen classes, from safetensors' own to OSError
        if is_out_of_memory(error):
            raise
        raise ProofError(f"{folder}: cannot be read back ({first_line(error)})", "report this") from error
    if missing := sorted(report["missing_keys"]):
        raise ProofError(f"{folder}: lacks {len(missing)} tensors, {missing[0]} among them", "report this")
    return model.to(bundle.device).eval()


def _prompts_by(folder: Path, assistant: Assistant) -> Callable[[Sequence[Message]], list[int]]:
    """Return how the written tokenizer, with the written template, encodes a conversation."""

    @cache
    def written() -> Assistant:
        from transformers import AutoTokenizer

        runs_own_code = assistant.bundle.source.runs_own_code
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=runs_own_code)
        return replace(assistant, chat_format=assistant.chat_format.of_tokenizer(tokenizer))

    return lambda messages: written().prompt_ids(messages)
