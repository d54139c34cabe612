"""Where what is merged or exported is written: aside, by one process at a time, and named only when it is proven.

What a failed proof leaves to be looked at is called ``*.unproven``. Only what carries a ``proof.json`` is ever
replaced, and of that only the files that it lists, as long as nobody has changed them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lorakit import console
from lorakit.errors import ProofError, SettingsError
from lorakit.incoming import read_json
from lorakit.outgoing import json_without_secrets
from lorakit.runs import (
    clear_working_folder,
    explaining_write_errors,
    locked,
    open_folder,
    place_folder,
    settle_folder,
    sha256_of,
    write_json,
)

PROOF_FILE = "proof.json"
UNPROVEN = ".unproven"
_OWN_HASH = "sha256"  # in a proof, of all else that it says


@contextmanager
def unproven(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which gets its own name only when this context ends without an error.

    Raises:
        SettingsError: Something that lorakit has not written stands there.
        RunError: Another process writes there, or it can no longer be written.
    """
    folder = folder.absolute()
    if not folder.name:
        raise SettingsError(f"export_dir: {str(folder)!r} is no folder of its own", "name an empty or a new folder")
    open_folder(folder.parent, "export_dir")
    fault = f"export_dir: another process is writing {str(folder)!r}"
    with (
        explaining_write_errors(folder, "make room, or name another folder: nothing was changed", "export_dir"),
        locked(folder.with_name(f".lorakit-lock-{folder.name}"), fault, "export_dir", is_kept=False),
    ):
        settle_folder(folder)
        _check_replaceable(folder)
        writing = clear_working_folder(folder)
        writing.mkdir()
        try:
            yield writing
            _take_over(folder, writing)
            place_folder(folder)
        except ProofError as error:  # what is whole and wrong stays to be looked at
            kept = _leave_unproven(folder, writing, error)
            raise ProofError(error.message.replace(str(writing), str(kept)), error.hint) from error
        except BaseException:
            with suppress(OSError):
                clear_working_folder(folder)
            raise


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"export_dir: {str(folder)!r} is a file, not a folder", "name an empty or a new folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / PROOF_FILE).is_file():
        raise SettingsError(f"export_dir: {str(folder)!r} holds other files", "name an empty or a new folder")


def _take_over(folder: Path, writing: Path) -> None:
    """Give what somebody has added to an earlier folder or changed in it a place in the new one too."""
    if not folder.exists():
        return
    listed = _listed(folder)
    for path in folder.iterdir():
        if path.name in listed and _is_as_listed(path, listed[path.name]):
            continue
        place = writing / path.name
        while os.path.lexists(place):  # lorakit now writes a file that is called so
            place = place.with_name(f"{place.name}.kept")
        if place.name != path.name:
            console.note(f"{path.name}: not as lorakit wrote it, and kept as {place.name}")
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, place, symlinks=True)
        else:
            shutil.copy2(path, place, follow_symlinks=False)


def hashes_of(files: Iterable[Path]) -> dict[str, str]:
    """Return the names of files with the hash of their content, in their order."""
    return {file.name: sha256_of(file) for file in sorted(files)}


def _listed(folder: Path) -> dict[str, str | None]:
    """Return the names in a folder that lorakit has written; None for a hash that is not known."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        record = read_json(folder / PROOF_FILE)
        files, own = record["files"], record.pop(_OWN_HASH, None)
        hashes = files if isinstance(files, dict) else dict.fromkeys(files)  # once it was names alone
        found = {str(name): one and str(one) for name, one in hashes.items()}
        return {PROOF_FILE: None, **found} if own in (None, _hash_of(record)) else found
    return {}


def write_proof(folder: Path, record: dict[str, Any]) -> None:
    """Write ``proof.json``, with the hash of what else it says."""
    write_json(folder / PROOF_FILE, record | {_OWN_HASH: _hash_of(record)})


def _hash_of(record: dict[str, Any]) -> str:
    return hashlib.sha256(json_without_secrets(record).encode()).hexdigest()


def _is_as_listed(file: Path, sha256: str | None) -> bool:
    return sha256 is None or (file.is_file() and not file.is_symlink() and sha256_of(file) == sha256)


def _leave_unproven(folder: Path, writing: Path, error: ProofError) -> Path:
    """Rename what is not proven, in place of an earlier one of its kind, but of nothing else."""
    if not (writing / PROOF_FILE).is_file():
        record = {"proven": False, "faults": [error.message], "files": hashes_of(writing.iterdir())}
        write_proof(writing, record)
    number, kept = 1, folder.with_name(folder.name + UNPROVEN)
    while os.path.lexists(kept) and not (kept / PROOF_FILE).is_file():
        number += 1
        kept = folder.with_name(f"{folder.name}-{number}{UNPROVEN}")
    settle_folder(kept)
    _take_over(kept, writing)
    place_folder(kept, writing)
    return kept
