"""Checkpoints that are whole or not there: written aside, listed with checksums, made durable, then renamed.

Each carries the mark of its run, so that no other run goes on from it or deletes it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from lorakit.incoming import fault_of_file, leads_out, open_file, read_json
from lorakit.runs.names import CHECKPOINT
from lorakit.runs.records import PlanRecord
from lorakit.runs.storage import discard, files_in, place_folder, write_json

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint says of the run that left it.

    Attributes:
        run: The mark of the run, as in its run.json.
        plan: What the run had decided when the checkpoint was written.
        max_tokens: The token budget of each process, which may have halved its own.
    """

    run: str
    plan: PlanRecord
    max_tokens: Annotated[tuple[Annotated[int, Field(gt=0, lt=2**53)], ...], Field(min_length=1)]


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    match = CHECKPOINT.match(checkpoint.name)
    return int(match[1]) if match else 0


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, whole or not, of any run, the newest first."""
    found = [path for path in folder.glob("checkpoint-*") if CHECKPOINT.match(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def publish(written: Path, checkpoint: Path, facts: CheckpointFacts) -> None:
    """Give a checkpoint that was written aside its checksums and its name.

    A power cut or a kill at any moment leaves either no such checkpoint or a whole one.
    """
    listed = {
        file.relative_to(written).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in files_in(written)
    }
    write_json(written / MANIFEST_FILE, {"files": listed, **asdict(facts)})
    place_folder(checkpoint, written)


def discard_old(folder: Path, run: str, step: int, most: int | None, best: Path | None) -> None:
    """Delete checkpoints of a run that are no longer wanted.

    Args:
        folder: Of the run.
        run: Its mark; checkpoints without it, and those to which somebody has added files, are not touched.
        step: Of the newest; later ones are of a time that is computed anew, and will be replaced.
        most: How many are kept; None keeps all.
        best: Is kept as one of them, but never in place of the newest.
    """
    if not most or most < 1:
        return
    own = [path for path in checkpoints(folder) if step_of(path) <= step and is_own_checkpoint(path, run)]
    kept = own[:most]
    if best in own and best not in kept:
        kept = [*own[: max(most - 1, 1)], best]
    for path in own:
        if path not in kept:
            discard(path)


def is_own_checkpoint(checkpoint: Path, run: str) -> bool:
    """Tell whether a run has left a checkpoint, and nobody has put anything else into its folder."""
    facts = read_facts(checkpoint)
    if facts is None or facts.run != run or checkpoint.is_symlink():
        return False
    listed = {MANIFEST_FILE, *_read_manifest(checkpoint)["files"]}
    there = (path for path in checkpoint.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(checkpoint).as_posix() for path in there} <= listed


def read_facts(checkpoint: Path) -> CheckpointFacts | None:
    """Read what a checkpoint says of its run; None where it does not say it."""
    try:
        content = _read_manifest(checkpoint)
        return TypeAdapter(CheckpointFacts).validate_python(
            {name: content[name] for name in ("run", "plan", "max_tokens")}
        )
    except (OSError, ValueError, KeyError, TypeError):  # pydantic's ValidationError is a ValueError
        return None


def fault_in(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint; None where every file is as it was written."""
    try:
        there = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*")}
        for name, path in there.items():
            fault = fault_of_file(str(path)) if path.is_symlink() or not path.is_dir() else None
            if fault is not None or leads_out(path):
                return f"{name} {fault or 'is a link that leads out of the folder'}"
        for name, wanted in _read_manifest(checkpoint)["files"].items():
            if name not in there:
                return f"{name} is missing"
            if there[name].stat().st_size != wanted["bytes"] or _sha256(there[name]) != wanted["sha256"]:
                return f"{name} is damaged"
    except FileNotFoundError:
        return f"it has no {MANIFEST_FILE}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST_FILE} cannot be read ({type(error).__name__})"
    return None


def _read_manifest(checkpoint: Path) -> Mapping[str, Any]:
    return read_json(checkpoint / MANIFEST_FILE)  # type: ignore[no-any-return]


def _sha256(file: Path) -> str:
    with open_file(file, sys.maxsize) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
