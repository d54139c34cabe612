"""An adapter written again for PEFT and its readers: in another number format, under other names, several as one."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lorakit.config import Config
from lorakit.errors import ProofError, SettingsError
from lorakit.export.merging import read_plainly
from lorakit.export.producing import Written
from lorakit.export.proving.proof import Reader, Reference
from lorakit.export.weights.merged import FORMATS
from lorakit.incoming import leads_out
from lorakit.inference import Adapters, Assistant
from lorakit.model_config import ModelBundle
from lorakit.model_config.weights.widened import is_narrow, read_widened

WEIGHTS = "adapter_model.safetensors"


def write_peft(adapters: Adapters, config: Config, reference: Reference, folder: Path) -> Written:
    """Write the adapter in use, its weight folded in.

    Raises:
        SettingsError: The format is for GGUF files, or two tensors would get one name.
    """
    from safetensors.torch import save_file

    if config.export_dtype not in {"auto", *FORMATS}:
        raise SettingsError(f"export_dtype: {config.export_dtype} is for GGUF files", "set f32, f16, bf16 or auto")
    written_as = "f32" if config.export_dtype == "auto" else config.export_dtype
    (name, weight), *_ = adapters.active.items()
    settings, tensors = adapters.tensors_of(name)
    _check_weight(settings, weight)
    written: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        scaled = tensor.float() * (weight if "lora_B" in key or "lora_embedding_B" in key else 1.0)
        written[renamed(key, config.adapter_keys)] = scaled.to(FORMATS[written_as]).contiguous()
    if len(written) < len(tensors):
        raise SettingsError("adapter_keys: gives two tensors one name", "write longer beginnings")
    own = copy.copy(settings)
    own.base_model_name_or_path = adapters.assistant.bundle.source.reference
    own.inference_mode = True
    own.save_pretrained(str(folder))
    save_file(written, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / "adapter_config.json", folder / WEIGHTS)
    source = adapters.made_of[0].folder
    for file in sorted(source.iterdir()):  # tokenizer, template and the record of the training
        if (
            file.is_file()
            and not leads_out(file)
            and file.suffix in {".json", ".jinja", ".txt", ".model"}
            and file.name != "adapter_config.json"
        ):
            shutil.copyfile(file, folder / file.name)
    kind = type(adapters.assistant.bundle.model.get_base_model())
    return Written(written_as, partial(_reader, folder, config.adapter_keys, kind))


def renamed(key: str, beginnings: Mapping[str, str]) -> str:
    """Give a tensor's name another beginning: that of the longest entry it begins with."""
    old = max((begin for begin in beginnings if key.startswith(begin)), key=len, default=None)
    return key if old is None else beginnings[old] + key[len(old) :]


def _reader(folder: Path, keys: Mapping[str, str], kind: Any, assistant: Assistant) -> Reader:
    return Reader("peft and transformers", partial(_read, folder, keys, kind, assistant.bundle))


def _read(folder: Path, keys: Mapping[str, str], kind: Any, bundle: ModelBundle) -> Any:
    """Read an adapter as PEFT does, over a base that plain transformers loads; renamed tensors are named back."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    if is_narrow(bundle.source):
        base = read_widened(bundle.source, kind, bundle.dtype.dtype, {})[0].to(bundle.device)
    else:
        base = read_plainly(bundle.source.folder, kind, bundle)
    model = get_peft_model(base, LoraConfig.from_pretrained(str(folder)))
    back = {new: old for old, new in keys.items()}
    tensors = {renamed(key, back): tensor for key, tensor in load_file(folder / WEIGHTS).items()}
    result = set_peft_model_state_dict(model, tensors)
    if result.unexpected_keys:
        raise ProofError(f"{folder}: PEFT does not know {result.unexpected_keys[0]}", "check adapter_keys")
    return model.get_base_model().to(bundle.device).eval()


def _check_weight(settings: Any, weight: float) -> None:
    if weight != 1 and getattr(settings, "use_dora", False):
        raise SettingsError("lora_model_path: a DoRA adapter cannot be written with a weight", "leave the weight out")
