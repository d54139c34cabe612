"""What lies in the folder of a model or an adapter: files of their own, which can be read to their end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorakit.incoming import fault_of_file, leads_out, read_json

_SETTINGS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")  # copied along into what is made of them
_WEIGHTS = ".safetensors"
_MORE_TEMPLATES = "additional_chat_templates"
_MOST_BYTES = 500_000_000  # of a file that is read whole: a large tokenizer has a tenth


def fault_in_folder(folder: Path) -> str | None:
    """Say which file of a folder must not be read, and why; None where all may be.

    Weights may be links to anywhere, as they are large; whatever is small stands in the folder itself, so that no
    private file is copied into what is published.
    """
    return next(_faults(folder), None)


def _faults(folder: Path) -> Iterator[str]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (*_SETTINGS, _WEIGHTS)]
    more = folder / _MORE_TEMPLATES
    files += sorted(more.glob("*.jinja")) if more.is_dir() else []
    if leads_out(more):
        yield f"{more.name} is a link that leads out of the folder"
    for file in files:
        fault = fault_of_file(str(file))
        if fault is not None:
            yield f"{file.name} {fault}"
        elif file.suffix != _WEIGHTS and leads_out(file):
            yield f"{file.name} is a link that leads out of the folder"
        elif file.suffix != _WEIGHTS and file.stat().st_size > _MOST_BYTES:
            yield f"{file.name} has more than {_MOST_BYTES // 1_000_000} MB"
    yield from _named_elsewhere(folder)


def _named_elsewhere(folder: Path) -> Iterator[str]:
    """Yield settings of a tokenizer, and entries of a list of weights, that name files of other folders."""
    for name, value in _object_in(folder / "tokenizer_config.json").items():
        if name.endswith("_file") and isinstance(value, str) and _is_elsewhere(folder, value):
            yield f"tokenizer_config.json names a file of another folder ({name})"
    listed = _object_in(folder / "model.safetensors.index.json").get("weight_map")
    names = listed.values() if isinstance(listed, dict) else ()
    for name in sorted({name for name in names if isinstance(name, str)}):
        if Path(name).name != name:
            yield f"model.safetensors.index.json names a file of another folder ({name[:80]!r})"


def _is_elsewhere(folder: Path, name: str) -> bool:
    try:
        target = (folder / name).resolve()
        return target.exists() and not target.is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False


def _object_in(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError):  # absent, or damaged, which whoever reads it will say
        return {}
    return content if isinstance(content, dict) else {}
