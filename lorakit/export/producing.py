"""What merging and exporting share: adapters made one, files written, the model freed, the files proven."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lorakit import console
from lorakit.config import Config
from lorakit.errors import SettingsError
from lorakit.export.proving.proof import Reader, Reference, proof_bytes, prove, questions_of, references
from lorakit.inference import Adapters, Assistant, open_adapters
from lorakit.model_config import locate_model, quantization_of, weight_bytes, weights_hash
from lorakit.model_config.source import weight_files
from lorakit.model_config.weights.stored_tensors import tensor_shapes
from lorakit.model_config.weights.widened import is_narrow
from lorakit.runs import check_room

_BYTES_OF_A_VALUE = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    # llama.cpp makes them of a file in f32, which stands beside them until it is done.
    "q6_k": 4.9,
    "q5_k_m": 4.8,
    "q4_k_m": 4.7,
}
_SMALL_BYTES = 10**9  # of a base's weights in bfloat16


@dataclass(frozen=True)
class Written:
    """What a writer has left in its folder.

    Attributes:
        number_format: The coarsest of it, a value of export_dtype.
        reader: How it is read back, from an assistant whose model may have been freed.
        faults: What the writer itself has found wrong, beside what the reader will be asked for.
    """

    number_format: str
    reader: Callable[[Assistant], Reader]
    faults: tuple[str, ...] = ()


Writer = Callable[[Adapters, Config, Reference, Path], Written]


def open_combined(config: Config) -> Adapters:
    """Load the base and what is to be written with it, several adapters made one.

    Raises:
        SettingsError: There is no adapter, or the base would be quantised.
    """
    if config.use_original_model:
        raise SettingsError("use_original_model: there is no adapter to write", "leave it out")
    if bits := quantization_of(config):
        raise SettingsError(
            f"load_in_{bits}: an adapter is merged into the full weights of its base", f"set load_in_{bits}: false"
        )
    adapters = open_adapters(_computed_exactly(config), may_be_half=False)
    weights = {choice.name: choice.weight for choice in adapters.choices}
    if len(weights) > 1:
        adapters.combine(weights, config.combination, config.density)
        console.note(f"{' + '.join(f'{name}:{weight:g}' for name, weight in weights.items())} by {config.combination}")
    return adapters


def _computed_exactly(config: Config) -> Config:
    """Compute a small model's proof in float32, so that nothing but the written weights makes a difference."""
    config = config.model_copy(update={"decode_weights": "same"})
    if config.torch_dtype != "auto":
        return config
    source = locate_model(config.model_name_or_path, config.model_hub, config.trust_remote_code)
    size = weight_bytes(source, torch.bfloat16)
    return config.model_copy(update={"torch_dtype": "float32"}) if size <= _SMALL_BYTES else config


def model_bytes(adapters: Adapters, config: Config) -> int:
    """Return what a whole model takes on the disk in ``export_dtype``."""
    source = adapters.assistant.bundle.source
    if config.export_dtype == "auto" and not is_narrow(source):
        return sum(file.stat().st_size for file in weight_files(source.folder))
    values = sum(math.prod(shape) for _, shape in tensor_shapes(source.folder))
    return int(values * _BYTES_OF_A_VALUE["bf16" if config.export_dtype == "auto" else config.export_dtype])


def adapter_bytes(adapters: Adapters, config: Config) -> int:
    """Return what an adapter takes, in float32 at most."""
    return 2 * sum(file.stat().st_size for choice in adapters.made_of for file in choice.folder.glob("*.safetensors"))


def produce(
    adapters: Adapters,
    config: Config,
    folder: Path,
    write: Writer,
    closes: bool = True,
    taken_bytes: Callable[[Adapters, Config], int] = model_bytes,
) -> None:
    """Write what is in use, and prove it.

    Args:
        adapters: With one adapter or a mixture in use.
        config: For the format and the questions.
        folder: Gets the files and their proof.
        write: Writes them.
        closes: Free the model before the written one is read, so that there is one of them in memory.
        taken_bytes: What will be written, so that a full disk is foreseen.

    Raises:
        RunError: There is no room for it.
        LorakitError: Base or adapters have changed meanwhile.
        ProofError: What was written is not the adapter on its base.
    """
    assistant = adapters.assistant
    if getattr(assistant.bundle.model.get_base_model(), "is_quantized", False):
        raise SettingsError(
            f"{assistant.bundle.source.name}: an adapter is merged into full weights, these are quantised",
            "take the base as it was before, and leave load_in_8bit and load_in_4bit out",
        )
    questions = questions_of(config, assistant)
    needed = taken_bytes(adapters, config) + proof_bytes(assistant, len(questions))
    console.note(check_room(folder, needed, "what is written and its proof", "export_dir"))
    with references(assistant, questions, config, folder) as reference:
        with adapters.unchanged():
            written = write(adapters, config, reference, folder)
            facts = facts_of(adapters)
        if closes:
            assistant = replace(assistant, bundle=replace(assistant.bundle, model=None))
            adapters.close()
        reader = written.reader(assistant)
        prove(reader, assistant, reference, written.number_format, folder, facts, written.faults)


def facts_of(adapters: Adapters) -> dict[str, Any]:
    """Return what a proof says of base and adapters: names and hashes, no paths."""
    source = adapters.assistant.bundle.source
    return {
        "base": source.hub_name or Path(source.name).name,
        "base_fingerprint": source.fingerprint(),
        "adapters": [
            {"name": choice.name, "weight": choice.weight, "sha256": weights_hash(choice.folder)}
            for choice in adapters.made_of
        ],
    }


def export_folder(config: Config, default: str) -> Path:
    """Return where a task of this room writes."""
    return Path(config.export_dir) if config.export_dir else Path(config.output_dir) / default
