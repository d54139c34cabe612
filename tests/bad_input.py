"""What a case of bad input is made of: a folder with a tiny model, files that are written, and a command line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import save_family
from safetensors.torch import load_file, save_file
from trained import ROWS


@dataclass(frozen=True)
class Lab:
    """Where a case is prepared.

    Attributes:
        folder: For its files.
        model_folder: From a family to the folder of its tiny model, shared by all cases.
        adapter_folder: Of a sound adapter of the Llama model, shared by all cases.
    """

    folder: Path
    model_folder: Callable[[str], Path]
    adapter_folder: Path

    def write(self, name: str, content: str | bytes) -> str:
        file = self.folder / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(file)

    def model(self, family: str = "llama") -> Path:
        """A copy that the case may damage."""
        return Path(shutil.copytree(self.model_folder(family), self.folder / "model"))

    def adapter(self) -> Path:
        """A copy that the case may damage."""
        return Path(shutil.copytree(self.adapter_folder, self.folder / "adapter"))

    def command(self, task: str, *more: str) -> list[str]:
        """A command line that would succeed but for ``more``."""
        rows = self.write("good.json", json.dumps(ROWS))
        return [
            *("--task", task, "--config", self.write("good.yaml", "")),
            *("--model_name_or_path", str(self.model_folder("llama")), "--output_dir", str(self.folder / "out")),
            *(f"--set=train_file={rows}", f"--set=validation_file={rows}", "--set=torch_dtype=float32"),
            *("--set=target_modules=all-linear", "--set=max_length=256", *more),
        ]


def listed_anew(checkpoint: Path) -> None:
    """Give a changed checkpoint the checksums of what it now holds, as whoever made it up would."""
    file = checkpoint / "manifest.json"
    try:
        manifest = json.loads(file.read_text())
        for name, wanted in manifest["files"].items():
            content = (checkpoint / name).read_bytes()
            wanted |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged itself
        return
    file.write_text(json.dumps(manifest))


ABSENT: Any = object()
Prepare = Callable[[Lab], list[str]]


@dataclass(frozen=True)
class Case:
    """Bad input, and what must be said of it.

    Attributes:
        name: For people.
        prepare: Writes what the case needs and returns its command line.
        words: All of them stand in the message: the place, the fault, and often the remedy.
    """

    name: str
    prepare: Prepare
    words: tuple[str, ...]


def config(name: str, text: str | bytes, *words: str) -> Case:
    """A case of a configuration file."""
    return Case(
        name,
        lambda lab: ["--task", "train", "--config", lab.write("bad.yaml", text)],
        ("bad.yaml", *words),
    )


def setting(name: str, assignment: str, *words: str) -> Case:
    """A case of one setting on the command line."""
    return Case(name, lambda lab: lab.command("train", f"--set={assignment}"), words)


def data(name: str, content: str | bytes | Callable[[], bytes], *words: str, file: str = "bad.json") -> Case:
    """A case of a file of rows; what takes a while to make is made when the case is tried."""
    return Case(
        name,
        lambda lab: lab.command(
            "train", f"--set=train_file={lab.write(file, content() if callable(content) else content)}"
        ),
        (file, *words),
    )


def model(name: str, damage: Callable[[Path], Any], *words: str) -> Case:
    """A case of a model's folder."""
    return Case(name, _damaged(Lab.model, damage, "train", "--model_name_or_path"), words)


def adapter(name: str, damage: Callable[[Path], Any], *words: str) -> Case:
    """A case of an adapter's folder."""
    return Case(name, _damaged(Lab.adapter, damage, "inference", "--lora_model_path"), words)


def _damaged(copied: Callable[[Lab], Path], damage: Callable[[Path], Any], task: str, flag: str) -> Prepare:
    def prepare(lab: Lab) -> list[str]:
        folder = copied(lab)
        damage(folder)
        return lab.command(task, flag, str(folder))

    return prepare


def writing(file: str, content: str | bytes) -> Callable[[Path], Any]:
    """Damage: a file with other content."""
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def cutting(file: str, bytes_kept: int) -> Callable[[Path], Any]:
    """Damage: only the beginning of a file."""
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:bytes_kept])


def removing(*files: str) -> Callable[[Path], Any]:
    """Damage: files that are not there."""
    return lambda folder: [(folder / file).unlink() for file in files]


def renaming(file: str, other: str) -> Callable[[Path], Any]:
    """Damage: a file under another name."""
    return lambda folder: (folder / file).rename(folder / other)


def setting_json(file: str, **changes: Any) -> Callable[[Path], Any]:
    """Damage: other values in a JSON file; `ABSENT` takes a key away."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        changed = {**content, **changes}
        (folder / file).write_text(json.dumps({k: v for k, v in changed.items() if v is not ABSENT}), encoding="utf-8")

    return damage


def changing_tensors(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Damage: other tensors in a file of weights."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file, metadata={"format": "pt"})

    return damage


def other_weights(folder: Path) -> Path:
    """The same shapes with other numbers."""
    return save_family("llama", folder, seed=1)
