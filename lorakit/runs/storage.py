"""Files and folders that are whole or not there, whenever a process is killed or the power fails.

A file is written beside its place and renamed. A folder is written beside its place, under a name that no person gives;
one that stands there already is renamed aside, and goes when the new one has its place. What is broken off between the
two `settle_folder` brings to its end. Nothing else is ever deleted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorakit.outgoing import json_without_secrets, without_secrets

_WRITING, _OLDER, _GOING = ".lorakit-writing-", ".lorakit-older-", ".lorakit-going-"


def make_durable(path: Path) -> None:
    """Have the operating system write a file, or a folder's list of names, to the disk itself."""
    if path.is_dir() and os.name == "nt":  # Windows has no such thing for folders
        return
    if not (path.is_file() or path.is_dir()):  # a pipe, which to open would be to wait for who writes into it
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_tree_durable(folder: Path) -> None:
    """Do so with a folder and all that is in it."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        if not path.is_symlink():
            make_durable(path)
    make_durable(folder)


def write_text(file: Path, text: str) -> None:
    """Write a text file whole or not at all, and no secret in it."""
    write_bytes(file, without_secrets(text).encode("utf-8"))


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = file.with_name(_WRITING + file.name)
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as stream:  # never through a link that somebody has laid
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    make_durable(file.parent)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file whole or not at all, readable for people; what is no finite number becomes null."""
    write_bytes(file, f"{json_without_secrets(content, indent=2)}\n".encode())


def working_folder(target: Path) -> Path:
    """Return where a folder is written before it gets its place; it is not made here."""
    return target.with_name(_WRITING + target.name)


def place_folder(target: Path, written: Path | None = None) -> None:
    """Give what was written its place; what stood there is gone afterwards.

    After a crash at any moment `settle_folder` finds the old folder or the new one, whole.

    Args:
        target: Its place.
        written: Where it was written; None where that was the `working_folder` of the target.
    """
    written, older = written or working_folder(target), target.with_name(_OLDER + target.name)
    settle_folder(target)
    make_tree_durable(written)
    if target.exists():
        os.replace(target, older)
    os.replace(written, target)
    make_durable(target.parent)
    _delete(older)


def settle_folder(target: Path) -> None:
    """End what a crash has broken off in `place_folder` or `discard`; what is being written is left alone."""
    older, going = (target.with_name(beginning + target.name) for beginning in (_OLDER, _GOING))
    if older.exists() and not target.exists():
        os.replace(older, target)
    _delete(older)
    _delete(going)


def settle_folders(folder: Path, pattern: str) -> None:
    """Do so with all folders whose names fit a pattern."""
    for beginning in (_OLDER, _GOING):
        for path in list(folder.glob(beginning + pattern)):
            settle_folder(folder / path.name.removeprefix(beginning))


def discard(folder: Path) -> None:
    """Delete a folder of lorakit's own: nothing but its whole content is ever seen under its name."""
    going = folder.with_name(_GOING + folder.name)
    _delete(going)
    os.replace(folder, going)
    _delete(going)


def clear_working_folder(target: Path) -> Path:
    """Return the `working_folder` of a target, file or folder, and delete what an earlier process has left there."""
    folder = working_folder(target)
    _delete(folder)
    return folder


def _delete(path: Path) -> None:
    """Delete a file or folder whose name says that it is lorakit's."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):  # a pipe among others, which rmtree would open, and wait
        path.unlink()


def files_in(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder, in the folders in it as well."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
