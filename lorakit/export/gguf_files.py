"""The files for llama.cpp and Ollama: the merged model, the adapter alone, and a Modelfile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lorakit import console
from lorakit.config import Config
from lorakit.errors import AdapterError
from lorakit.export.gguf.adapter import adapter_weights, write_adapter_gguf
from lorakit.export.gguf.family import departures, family_of, read_as
from lorakit.export.gguf.model import write_model_gguf
from lorakit.export.gguf.reading import read_gguf
from lorakit.export.gguf.tensors import name_map
from lorakit.export.hub.parcel import MODELFILE
from lorakit.export.merging import read_plainly
from lorakit.export.ollama.modelfile import modelfile
from lorakit.export.producing import Written
from lorakit.export.proving.probes import LayerEffect, signs
from lorakit.export.proving.proof import Reader, Reference
from lorakit.export.weights.checkpoint import read_checkpoint
from lorakit.export.weights.merged import NAMES, format_of, merged_tensors, unties_head
from lorakit.export.weights.quantising import QUANTISED, quantise
from lorakit.inference import Adapters, Assistant

ADAPTER_FILE = "adapter.gguf"
_ARITHMETIC = 1e-4  # relative: products of the adapter's matrices in float32


def write_gguf_files(adapters: Adapters, config: Config, reference: Reference, folder: Path) -> Written:
    """Write model, adapter and Modelfile.

    Raises:
        ModelError: llama.cpp has no such model or tokenizer.
    """
    assistant = adapters.assistant
    bundle, chat_format = assistant.bundle, assistant.chat_format
    base_config = bundle.model.get_base_model().config
    own_config = base_config.__class__.from_dict(base_config.to_dict())
    if unties_head(bundle.model):
        own_config.tie_word_embeddings = False
    for words in departures(own_config):  # refuses before anything is read
        console.note(words)
    base = read_checkpoint(bundle.source.folder)
    dtype = NAMES[format_of(base)] if config.export_dtype == "auto" else config.export_dtype
    name = " + ".join([Path(bundle.source.name).name, *adapters.active])
    file = folder / f"model-{dtype}.gguf"
    tensors = merged_tensors(bundle.model, base, torch.float32)
    written, first = ("f32", file.with_suffix(".f32")) if dtype in QUANTISED else (dtype, file)
    write_model_gguf(first, own_config, tensors, bundle.tokenizer, chat_format, assistant.stop_ids, written, name)
    if first != file:
        quantise(first, file, dtype)
        first.unlink()
    faults = _write_adapter(adapters, own_config, reference, folder, name)
    stops = bundle.tokenizer.convert_ids_to_tokens(assistant.stop_ids)
    text = modelfile(chat_format, file.name, assistant.system_prompt, stops, config.temperature, assistant.thinking)
    (folder / MODELFILE).write_text(text, encoding="utf-8")
    return Written(dtype, partial(_reader, file, type(bundle.model.get_base_model()), own_config), faults)


def _write_adapter(
    adapters: Adapters, own_config: Any, reference: Reference, folder: Path, name: str
) -> tuple[str, ...]:
    """Write the adapter alone, for ``llama-cli --lora``; return what is wrong with it when it is read again."""
    active = list(adapters.active)
    try:
        if len(active) > 1:
            raise AdapterError("several adapters are in use, which llama.cpp takes one by one")
        weights = adapter_weights(adapters.assistant.bundle.model, adapters.slot_of(active[0]))
        write_adapter_gguf(folder / ADAPTER_FILE, own_config, weights, name)
    except AdapterError as error:
        console.note(f"{ADAPTER_FILE} is left out: {error.message}")
        return ()
    return tuple(_adapter_faults(folder / ADAPTER_FILE, own_config, reference.effects))


def _adapter_faults(file: Path, own_config: Any, effects: Sequence[LayerEffect]) -> Iterator[str]:
    """Read an adapter's file and hold what its matrices add in each layer against the adapter's effect."""
    from gguf import GGUFReader
    from gguf.constants import Keys

    reader = GGUFReader(file)
    matrices = {tensor.name: torch.from_numpy(tensor.data.copy()).float() for tensor in reader.tensors}
    alpha = float(reader.fields[Keys.Adapter.LORA_ALPHA].contents())
    family, names = family_of(own_config), name_map(family_of(own_config), own_config)
    for effect in effects:
        target = f"{names.get_name(effect.path)}.weight"
        a, b = matrices.get(f"{target}.lora_a"), matrices.get(f"{target}.lora_b")  # [rank, in] and [out, rank]
        if a is None or b is None:
            yield f"{file.name} lacks {target}"
            continue
        added = alpha / len(a) * b @ (a @ signs(effect.path, a.shape[1]).T)  # [out, 4]
        wanted = family.rows_as_computed(target, effect.effect.T.cpu(), own_config)
        if float((added - wanted).norm()) > _ARITHMETIC * float(wanted.norm() + effect.base.norm().cpu()):
            yield f"{file.name} does something else in {target}"


def _reader(file: Path, kind: Any, config: Any, assistant: Assistant) -> Reader:
    if not family_of(config).transformers_reads:
        return Reader("gguf's reader", partial(read_gguf, file, kind, config, assistant.bundle))
    # The configuration is given: transformers does not read head sizes and biases of all families from the file.
    kind, config = read_as(kind, config)
    how = {"gguf_file": file.name, "config": config}
    return Reader("transformers' GGUF loader", partial(read_plainly, file.parent, kind, assistant.bundle, **how))
