"""What was found out about a model is kept, by its architecture, settings and the versions of all that computes it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import lorakit
from lorakit.agreement.proving import Agreement, positions_alike, prove
from lorakit.engine import Pieces
from lorakit.runs import cache_folder, write_json

_COMPUTING = ("torch", "transformers", "peft")
_NOT_COMPUTED = ("_name_or_path", "transformers_version")
_ROOMS = ("engine", "agreement")


def agreement_of(model: Any, device: str, dtype: torch.dtype, runs_own_code: bool = False) -> Agreement:
    """Return what serves a model, found out now or earlier.

    Args:
        model: As transformers has loaded it, without an adapter.
        device: The kind of device that will compute.
        dtype: In which it will compute.
        runs_own_code: Whether its code came with it, which no version names: then nothing is kept.
    """
    if runs_own_code:
        return prove(model, dtype)
    file = cache_folder() / "agreements" / f"{_key(model, device, dtype)}.json"
    found = _read(file)
    if found is None:
        found = prove(model, dtype)
        _keep(file, found)
    return found


def _key(model: Any, device: str, dtype: torch.dtype) -> str:
    settings = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_COMPUTED}
    parts = [
        type(model).__qualname__,
        json.dumps(settings, sort_keys=True, default=str),
        str(model.config._attn_implementation),
        str(sorted({str(tensor.dtype) for tensor in model.parameters()})),
        device,
        str(dtype),
        str(positions_alike(model)),
        *(version(name) for name in _COMPUTING),
        _own_code(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def _own_code() -> str:
    """Name the code of the rooms that compute, whatever its version says."""
    root = Path(lorakit.__file__).parent
    digest = hashlib.sha256()
    files = (file for room in _ROOMS for file in (root / room).rglob("*"))
    for file in sorted(file for file in files if file.suffix in {".py", ".cpp", ".h"}):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> Agreement | None:
    """Return what was found earlier; None where nothing was, or the note is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        pieces = Pieces(**{**found["pieces"], "unheard": tuple(found["pieces"]["unheard"])})
        faults = {str(name): str(fault) for name, fault in found["faults"].items()}
        refusal, in_format = (None if found[name] is None else str(found[name]) for name in ("refusal", "format_fault"))
        return Agreement(pieces, float(found["off"]), refusal, faults, in_format)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(file: Path, found: Agreement) -> None:
    """Keep what was found; where the cache cannot be written, it will be found out again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(found))
    except OSError:
        return
