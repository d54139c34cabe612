"""What of a folder is sent to a hub: files that belong there, by name. Everything else is left and named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from lorakit.errors import AdapterError, RunError
from lorakit.export.placing import PROOF_FILE, UNPROVEN
from lorakit.incoming import is_folder, read_json
from lorakit.model_config.adapters.record import RECORD_FILE
from lorakit.runs import CARD_FILE

MODELFILE = "Modelfile"
_WEIGHTS = (
    "adapter_model.safetensors",
    "model.safetensors",
    "model-[0-9]*-of-[0-9]*.safetensors",
    "*.gguf",
)
_BELONGS = (
    *_WEIGHTS,
    "adapter_config.json",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "LICENSE",
    "NOTICE",
    RECORD_FILE,
    CARD_FILE,
    PROOF_FILE,
    MODELFILE,
)


@dataclass(frozen=True)
class ParcelFile:
    """A file that is sent, its size in bytes, and when it was last written."""

    name: str
    size: int
    written_ns: int = 0


@dataclass(frozen=True)
class Parcel:
    """What is sent.

    Attributes:
        folder: Where it lies.
        files: That belong there.
        left: Names of what else lies there, with the reason where it is not the name.
    """

    folder: Path
    files: tuple[ParcelFile, ...]
    left: tuple[str, ...]


def pack_up(folder: Path) -> Parcel:
    """List what of a folder is sent.

    Raises:
        AdapterError: There is no such folder, or neither an adapter nor a model in it.
        RunError: What lies there has not been proven to be what it was made from.
    """
    if not is_folder(folder):
        raise AdapterError(f"{folder}: there is no such folder to send", "train first, or name it: --lora_model_path")
    _check_proven(folder)
    entries = sorted(folder.iterdir())
    states = [(path.name, path.stat()) for path in entries if _belongs(path)]
    files = tuple(ParcelFile(name, found.st_size, found.st_mtime_ns) for name, found in states)
    if not any(_is_named(file.name, _WEIGHTS) for file in files):
        raise AdapterError(
            f"{folder}: holds neither an adapter nor a model to send",
            "name a folder with adapter_model.safetensors (--lora_model_path), or what was merged or exported "
            "(--export_dir)",
        )
    return Parcel(folder, files, tuple(_left(entries)))


def _check_proven(folder: Path) -> None:
    remedy = "merge or export it again, and push only what has been proven"
    if folder.resolve().name.endswith(UNPROVEN):
        raise RunError(f"{folder}: has not been proven to be what it was made from, so it is not sent", remedy)
    file = folder / PROOF_FILE
    if not file.exists():
        return
    try:
        is_proven = read_json(file)["proven"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: is damaged ({type(error).__name__}), so nothing is sent", remedy) from error
    if is_proven is not True:
        raise RunError(f"{file}: says that it is not what it was made from, so it is not sent", remedy)


def _belongs(path: Path) -> bool:
    # A link could lead to any file of this machine.
    return _is_named(path.name, _BELONGS) and path.is_file() and not path.is_symlink()


def _is_named(name: str, patterns: tuple[str, ...]) -> bool:
    return not name.startswith(".") and any(fnmatchcase(name, pattern) for pattern in patterns)


def _left(entries: list[Path]) -> Iterator[str]:
    for path in entries:
        if not _belongs(path):
            kind = " (a link)" if path.is_symlink() else "/" if path.is_dir() else ""
            yield f"{path.name}{kind}"
