"""What lies in the folder of a model or an adapter: files of their own, which can be read to their end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorakit.errors import AdapterError
from lorakit.incoming import MOST_JSON_BYTES, fault_of_file, has_many_brackets, leads_out, read_json, read_whole
from lorakit.model_config.checks.tokenizer import MOST_GROWTH, growth_of

_SETTINGS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")  # copied along into what is made of them
WEIGHTS = ".safetensors"
_MORE_TEMPLATES = "additional_chat_templates"
_LIST_OF_WEIGHTS = "model.safetensors.index.json"
# What is read whole, by libraries several times over: the largest known tokenizers have 35 MB, other settings one.
_TOKENIZER = "tokenizer.json"
_VOCABULARIES = (_TOKENIZER, "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
_MOST_BYTES, _MOST_OF_A_VOCABULARY = 5_000_000, 80_000_000
_MOST_ADDED_TOKENS = 20_000  # Gemma 3 has 6,415, and all are looked for in every text
_BYTES_OF_A_MERGE = 8  # at least: a list of two words


def fault_in_folder(folder: Path) -> str | None:
    """Say which file of a folder must not be read, and why; None where all may be.

    Weights may be links to anywhere, as they are large; whatever is small stands in the folder itself, so that no
    private file is copied into what is published.
    """
    return next(_faults(folder), None)


def check_adapter_folder(folder: Path) -> None:
    """Hold the folder of an adapter to `fault_in_folder`, before anything in it is read.

    Raises:
        AdapterError: A file of it must not be read.
    """
    if (fault := fault_in_folder(folder)) is not None:
        raise AdapterError(f"{folder}: {fault}", "copy the adapter's folder again, with files of its own")


def files_in(folder: Path) -> list[Path]:
    """List what of a folder belongs to a model or an adapter; nothing where it cannot be read."""
    more = folder / _MORE_TEMPLATES
    try:
        files = [path for path in sorted(folder.iterdir()) if path.suffix in (*_SETTINGS, WEIGHTS)]
        return files + (sorted(more.glob("*.jinja")) if more.is_dir() else [])
    except (OSError, ValueError):  # a name that no folder could have
        return []


def _faults(folder: Path) -> Iterator[str]:
    more = folder / _MORE_TEMPLATES
    if leads_out(more):
        yield f"{more.name} is a link that leads out of the folder"
    for file in files_in(folder):
        fault = fault_of_file(str(file))
        if fault is not None:
            yield f"{file.name} {fault}"
        elif file.suffix != WEIGHTS and leads_out(file):
            yield f"{file.name} is a link that leads out of the folder"
        elif file.suffix != WEIGHTS:
            yield from _excess(file)
    yield from _named_elsewhere(folder)


def _excess(file: Path) -> Iterator[str]:
    """Yield what makes a file too large to be read whole."""
    is_vocabulary = file.name in _VOCABULARIES or file.suffix in (".model", ".tiktoken")
    most = _MOST_OF_A_VOCABULARY if is_vocabulary else MOST_JSON_BYTES if file.name == _LIST_OF_WEIGHTS else _MOST_BYTES
    if file.stat().st_size > most:
        yield f"{file.name} has more than {most // 1_000_000} MB"
    elif file.suffix == ".json":
        fewest = {"fewest_bytes": _BYTES_OF_A_MERGE} if is_vocabulary else {}
        content = read_whole(file, most)
        if has_many_brackets(content, **fewest):
            yield f"{file.name} is mostly brackets"
        elif file.name == _TOKENIZER and growth_of(content.decode(errors="replace")) > MOST_GROWTH:
            yield f"{file.name} makes texts more than {MOST_GROWTH} times longer (normalizer, decoder, padding)"
        elif file.name == _TOKENIZER and content.count(b'"content"') > _MOST_ADDED_TOKENS:
            yield f"{file.name} adds more than {_MOST_ADDED_TOKENS} tokens to its vocabulary"


def _named_elsewhere(folder: Path) -> Iterator[str]:
    """Yield settings of a tokenizer, and entries of a list of weights, that name files of other folders."""
    for name, value in _object_in(folder / "tokenizer_config.json").items():
        if name.endswith("_file") and isinstance(value, str) and _is_elsewhere(folder, value):
            yield f"tokenizer_config.json names a file of another folder ({name})"
    listed = _object_in(folder / _LIST_OF_WEIGHTS).get("weight_map")
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
