"""Checkpoints that are whole or not there: written aside, listed with checksums, made durable, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

MANIFEST_FILE = "manifest.json"
WRITING_FOLDER = "checkpoint.writing"
_NAME = re.compile(r"^checkpoint-(\d+)$")


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    match = _NAME.match(checkpoint.name)
    return int(match[1]) if match else 0


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, whole or not, the newest first."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.match(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def publish(written: Path, checkpoint: Path) -> None:
    """Give a checkpoint that was written aside its checksums and its name.

    A power cut or a kill at any moment leaves either no such checkpoint or a whole one.
    """
    listed = {}
    for file in _files(written):
        _make_durable(file)
        listed[file.relative_to(written).as_posix()] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
    manifest = written / MANIFEST_FILE
    manifest.write_text(json.dumps({"files": listed}, indent=1), encoding="utf-8")
    _make_durable(manifest)
    _make_durable(written)
    if checkpoint.exists():  # of a run that was resumed from an earlier one
        shutil.rmtree(checkpoint)
    os.replace(written, checkpoint)
    _make_durable(checkpoint.parent)


def fault_in(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint; None where every file is as it was written."""
    try:
        listed = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        for name, wanted in listed.items():
            file = checkpoint / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != wanted["bytes"] or _sha256(file) != wanted["sha256"]:
                return f"{name} is damaged"
    except FileNotFoundError:
        return f"it has no {MANIFEST_FILE}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST_FILE} cannot be read ({type(error).__name__})"
    return None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _make_durable(path: Path) -> None:
    """Have the operating system write a file, or a folder's list of names, to the disk itself."""
    if path.is_dir() and os.name == "nt":  # Windows has no such thing for folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
