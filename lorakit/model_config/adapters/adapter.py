"""Saving an adapter, and attaching one to its base only if it belongs there."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorakit import console
from lorakit.engine import accelerate, base_model
from lorakit.errors import AdapterError
from lorakit.incoming import fault_of_file, is_missing
from lorakit.model_config.adapters.layer_names import layer_names
from lorakit.model_config.adapters.record import RECORD_FILE, AdapterRecord, read_record
from lorakit.model_config.adapters.settings import SETTINGS_FILE, check_fields, lora_config, read_settings_file
from lorakit.model_config.adapters.whole_embeddings import copies_in, passed_over, whole_embeddings
from lorakit.model_config.checks.adapter_bounds import check_bounds, is_finite
from lorakit.model_config.checks.folder import check_adapter_folder
from lorakit.model_config.checks.unchanged import FolderState
from lorakit.model_config.fingerprint import KIND
from lorakit.model_config.loading import ModelBundle
from lorakit.model_config.trust import first_line, read_settings
from lorakit.outgoing import strict_json
from lorakit.runs import CARD_FILE, clear_working_folder, keep_foreign, list_written, place_folder

_WEIGHTS = "adapter_model.safetensors"


def save_adapter(
    model: Any, tokenizer: Any, record: AdapterRecord, folder: Path, trained: dict[str, Any] | None = None
) -> None:
    """Write adapter, tokenizer and record into ``folder``; an older one there goes only when the new one is whole.

    One in which somebody has changed or added files is moved into ``previous`` with them.

    Args:
        model: With the adapter.
        tokenizer: Of its base.
        record: Of its training.
        folder: Of the adapter.
        trained: The trained parameters by name, gathered where the model is sharded; None takes the model's own.
    """
    temporary = clear_working_folder(folder)
    model.save_pretrained(str(temporary), state_dict=trained, save_embedding_layers=False)
    shutil.copymode(
        temporary / SETTINGS_FILE, temporary / _WEIGHTS
    )  # safetensors makes files that only their owner may read
    tokenizer.save_pretrained(str(temporary))
    (temporary / CARD_FILE).unlink(missing_ok=True)  # PEFT's own has no content but the path of the base
    text = strict_json(asdict(record), indent=2)
    (temporary / RECORD_FILE).write_text(text + "\n", encoding="utf-8")
    keep_foreign(folder.parent, [folder.name], console.note)
    list_written(folder.parent, folder.name, temporary)
    place_folder(folder)


def attach_adapter(bundle: ModelBundle, folder: Path, slot: str = "default") -> Any:
    """Attach a saved adapter to its base, beside those that are attached already.

    Args:
        bundle: The base.
        folder: Of the adapter.
        slot: PEFT's name for it.

    Returns:
        A ``peft.PeftModel`` in evaluation mode.

    Raises:
        AdapterError: There is none, its weights are not safetensors, it does not belong to this base, or it has changed
            while it was read.
    """
    with unchanged_adapter(FolderState.of(folder)):
        settings = _read_settings(folder)
        _check_base(bundle, folder, settings)
        adapted, copies = _load(bundle, folder, slot, settings)
        _check_complete(adapted, folder, slot, copies)
    accelerate(adapted)
    return adapted.eval()


def check_unchanged(found: FolderState) -> None:
    """Hold the folder of an adapter to what it was when it was found.

    Raises:
        AdapterError: Something has written there since.
    """
    if (changed := found.changed()) is not None:
        raise AdapterError(
            f"{found.folder}: {changed} has changed while it was read",
            "wait until whatever writes there has come to its end, then run this again",
        )


@contextmanager
def unchanged_adapter(found: FolderState) -> Iterator[None]:
    """Read inside this context what belongs together, and know afterwards that it does; see `check_unchanged`."""
    try:
        yield
    except Exception:  # whatever it is, of half a file
        check_unchanged(found)
        raise
    check_unchanged(found)


def check_adapter(folder: Path) -> None:
    """Refuse what is no adapter, or more than one, without its base: a fault should not wait for gigabytes of weights.

    Raises:
        AdapterError: There is none, its weights are not safetensors, or its settings are not those of LoRA.
    """
    check_fields(_read_settings(folder), folder)


def load_adapter_tensors(model: Any, file: Path) -> None:
    """Give the adapter of a model the tensors of a file.

    Args:
        model: A ``peft.PeftModel`` with one adapter.
        file: Its safetensors.

    Raises:
        ValueError: They are not those of this adapter.
        SafetensorError, RuntimeError: The file is damaged, or its tensors have other shapes.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    tensors = load_file(file)
    slot = model.active_adapters[0]
    expected = set(get_peft_model_state_dict(model, adapter_name=slot, save_embedding_layers=False))
    if missing := sorted(expected - set(tensors)):
        raise ValueError(f"{missing[0]} is missing")
    if unknown := set_peft_model_state_dict(model, tensors, adapter_name=slot).unexpected_keys:
        raise ValueError(f"{unknown[0]} is unknown to this adapter")


def detach_adapter(model: Any, slot: str) -> None:
    """Take an adapter off its base, one that was attached in part only too."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(model, PeftModel):
        if slot in model.peft_config:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of another one that is used now: the caller chooses
                model.delete_adapter(slot)
        return
    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            model.set_submodule(path, module.get_base_layer())
        elif isinstance(module, AuxiliaryTrainingWrapper):
            model.set_submodule(path, module.original_module)


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 of an adapter's weights."""
    with open(folder / _WEIGHTS, "rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()


def _read_settings(folder: Path) -> dict[str, Any]:
    fault = fault_of_file(str(folder / SETTINGS_FILE))
    if fault is not None and not is_missing(fault):
        raise AdapterError(f"{str(folder)[:200]}: {SETTINGS_FILE} {fault}", "name the folder of an adapter")
    if fault is not None:
        raise AdapterError(
            f"{folder}: there is no adapter here (no {SETTINGS_FILE})",
            "train one with --task train, name another with --lora_model_path, or use --use_original_model",
        )
    if not (folder / _WEIGHTS).exists():
        if (folder / "adapter_model.bin").is_file():
            raise AdapterError(
                f"{folder}: its weights are a pickle (adapter_model.bin), which can run code when it is loaded",
                "convert it to safetensors where you trust it: load and save it again with PEFT",
            )
        raise AdapterError(f"{folder}: {_WEIGHTS} is missing", "copy the adapter's folder again, with all its files")
    check_adapter_folder(folder)
    return read_settings_file(folder)


def _check_base(bundle: ModelBundle, folder: Path, settings: dict[str, Any]) -> None:
    record = read_record(folder)
    if record is not None:
        if not record.base_fingerprint.startswith(KIND):
            console.warn(
                f"{folder}: was made by an earlier version of lorakit, so its base is not compared byte by byte"
            )
        elif record.base_fingerprint != bundle.source.fingerprint():
            raise AdapterError(
                f"{folder}: was trained on {record.base_model}, whose weights are not those of {bundle.source.name}",
                f"set model_name_or_path: {record.base_model}, or choose an adapter of this model",
            )
        return
    console.note(
        f"{folder}: was not made by lorakit: its chat template, system prompt, stop token and the weights of its base "
        "are unknown; only its shapes are checked"
    )
    named = str(settings.get("base_model_name_or_path") or "")
    if named and Path(named).name.lower() != Path(bundle.source.reference).name.lower():
        console.warn(f"{folder}: names {named} as its base, not {bundle.source.name}")


def _load(bundle: ModelBundle, folder: Path, slot: str, settings: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Return the model with the adapter, and the tensors that were passed over as they say nothing new."""
    from peft import PeftModel
    from safetensors import SafetensorError

    base = base_model(bundle.model)
    config = lora_config(settings, folder, layer_names(base))
    weights = folder / _WEIGHTS
    try:
        if whole := whole_embeddings(weights, base):
            config.modules_to_save = sorted({*(config.modules_to_save or []), *whole})
        check_bounds(config, weights, base)
        copies = _copies(bundle, weights, base, config)
        passed = passed_over(copies)
        if isinstance(bundle.model, PeftModel):
            config.inference_mode = True
            bundle.model.add_adapter(slot, config)
            bundle.model.load_adapter(str(folder), slot, torch_device=str(bundle.device), key_mapping=passed)
            return bundle.model, copies
        adapted = PeftModel.from_pretrained(
            bundle.model, str(folder), adapter_name=slot, config=config, key_mapping=passed
        )
        return adapted, copies
    except SafetensorError as error:
        raise AdapterError(
            f"{folder}: {_WEIGHTS} is damaged ({first_line(error)})", "copy the adapter's folder again"
        ) from error
    except Exception as error:  # torch's size mismatch, PEFT's target search
        text = str(error)
        lines = [line.strip() for line in text.splitlines() if "mismatch" in line and "Error(s)" not in line]
        reason = lines[0] if lines else text.splitlines()[0] if text else type(error).__name__
        raise AdapterError(
            f"{folder}: does not fit {bundle.source.name} ({reason})",
            "choose the base model that it was trained on, or an adapter of this model",
        ) from error


def _copies(bundle: ModelBundle, weights: Path, base: Any, config: Any) -> tuple[str, ...]:
    settings = read_settings(bundle.source)
    known = settings.get("text_config", settings).get("vocab_size")
    known = known if isinstance(known, int) else len(bundle.tokenizer)
    indices = config.trainable_token_indices or {}
    brought = set(indices if isinstance(indices, list) else [index for own in indices.values() for index in own])
    return copies_in(weights, base, known, set(range(known, len(bundle.tokenizer))) - brought)


def _check_complete(adapted: Any, folder: Path, slot: str, copies: Collection[str]) -> None:
    """PEFT leaves what is missing at its initial values and drops what it does not know; here both are refused."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    expected = get_peft_model_state_dict(adapted, adapter_name=slot, save_embedding_layers=False)
    with safe_open(folder / _WEIGHTS, framework="pt") as weights:
        present = set(weights.keys()) - set(copies)
    missing, unexpected = sorted(set(expected) - present), sorted(present - set(expected))
    for keys, fault in ((missing, "lacks"), (unexpected, "has, unknown to the model,")):
        if keys:
            raise AdapterError(
                f"{folder}: {fault} {len(keys)} of its tensors, {keys[0]} among them",
                "choose the base model that it was trained on, or an adapter of this model",
            )
    unsound = next((name for name, tensor in expected.items() if not is_finite(tensor)), None)
    if unsound is not None:
        raise AdapterError(
            f"{folder}: {unsound} holds numbers that are not finite, so no answer could be computed",
            "train it again with a lower learning_rate, or take an earlier checkpoint",
        )
    if not any(bool(tensor.any()) for name, tensor in expected.items() if "lora_B" in name):
        console.warn(f"{folder}: every lora_B is zero, so this adapter changes nothing")
