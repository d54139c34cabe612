"""Which files of a run's folder lorakit has written, and nobody has changed since: no others are written over.

What is written is listed with its hash, and with the one before it, so that a write that is broken off leaves both
known. What is not as it is listed `keep_foreign` moves out of the way.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lorakit.incoming import leads_out, open_file, read_json
from lorakit.outgoing import json_without_secrets, without_secrets
from lorakit.runs.archive import move_aside
from lorakit.runs.names import WRITTEN_FILE
from lorakit.runs.storage import files_in, write_bytes, write_json


def write_own_text(folder: Path, name: str, text: str) -> None:
    """Write a text file of a run whole or not at all, and no secret in it."""
    write_own_bytes(folder, name, without_secrets(text).encode("utf-8"))


def write_own_json(folder: Path, name: str, content: Any) -> None:
    """Do so with JSON, readable for people; what is no finite number becomes null."""
    write_own_bytes(folder, name, f"{json_without_secrets(content, indent=2)}\n".encode())


def write_own_lines(folder: Path, name: str, contents: Iterable[Any]) -> None:
    """Do so with JSON Lines."""
    write_own_bytes(folder, name, "".join(f"{json_without_secrets(content)}\n" for content in contents).encode())


def write_own_bytes(folder: Path, name: str, content: bytes) -> None:
    """Write a file of a run whole or not at all.

    Args:
        folder: Of the run.
        name: The file's, in it or in a folder in it.
        content: Its bytes.
    """
    _list(folder, {name: hashlib.sha256(content).hexdigest()})
    write_bytes(folder / name, content)


def list_written(folder: Path, name: str, written: Path) -> None:
    """List the files of a folder as lorakit's before it gets its place.

    Args:
        folder: Of the run.
        name: What the folder will be called in it.
        written: Where it stands yet.
    """
    _list(folder, {f"{name}/{file.relative_to(written).as_posix()}": sha256_of(file) for file in files_in(written)})


def keep_foreign(folder: Path, names: Iterable[str], say: Callable[[str], None]) -> None:
    """Move what is not as lorakit wrote it into ``previous``, before it is written over.

    Args:
        folder: Of the run.
        names: Of files and folders in it; a folder is moved as a whole.
        say: Tells the user.
    """
    if pieces := _foreign_pieces(folder, names):
        named = ", ".join(piece.name for piece in pieces)
        say(f"{named}: not as lorakit wrote it, and kept in {move_aside(folder, pieces)}")


def _foreign_pieces(folder: Path, names: Iterable[str]) -> list[Path]:
    known = _listed(folder)

    def is_own(file: Path) -> bool:
        hashes = known.get(file.relative_to(folder).as_posix(), ())
        return bool(hashes) and file.is_file() and not file.is_symlink() and sha256_of(file) in hashes

    return [folder / name for name in names if not all(map(is_own, _files(folder / name)))]


def _files(piece: Path) -> Iterator[Path]:
    if piece.is_dir() and not piece.is_symlink():
        yield from (path for path in sorted(piece.rglob("*")) if path.is_symlink() or not path.is_dir())
    elif piece.exists() or piece.is_symlink():
        yield piece


def _listed(folder: Path) -> dict[str, list[str]]:
    if leads_out(folder / WRITTEN_FILE):
        return {}
    try:
        found = read_json(folder / WRITTEN_FILE)["files"]
        return {str(name): [str(one) for one in hashes] for name, hashes in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _list(folder: Path, hashes: dict[str, str]) -> None:
    known = _listed(folder)
    listed = known | {name: list(dict.fromkeys([own, *known.get(name, [])[:1]])) for name, own in hashes.items()}
    if listed != known:
        write_json(folder / WRITTEN_FILE, {"files": listed})


def sha256_of(file: Path) -> str:
    """Return the hash of a regular file's content."""
    with open_file(file, sys.maxsize) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
