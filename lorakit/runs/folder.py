"""The folder a run writes into: made, kept from overwriting an earlier run, written to in whole files."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from lorakit.errors import RunError
from lorakit.runs.records import EVENTS_FILE

PREVIOUS = "previous"
ADAPTER_FOLDER = "lora_model"
RESULTS_FILE = "eval_results.json"
PREDICTIONS_FILE = "predictions.jsonl"
CURVE_FILE = "loss_curve.png"
USED_CONFIG_FILE = "config_used.yaml"
UNUSED_ROWS_FILE = "unused_rows.txt"
_FILES_OF_A_RUN = (
    EVENTS_FILE,
    ADAPTER_FOLDER,
    RESULTS_FILE,
    PREDICTIONS_FILE,
    CURVE_FILE,
    USED_CONFIG_FILE,
    UNUSED_ROWS_FILE,
    "checkpoint-*",
)
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")


def open_folder(folder: Path) -> Path:
    """Make sure that a folder exists and can be written to.

    Raises:
        RunError: It cannot.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"output_dir: {str(folder)!r} cannot be written ({error.strerror})", "choose another folder"
        ) from error
    return folder


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of the latest step that is complete, if there is one."""
    found = {
        int(match[1]): path
        for path in folder.glob("checkpoint-*")
        if (match := _CHECKPOINT.match(path.name)) and (path / "trainer_state.json").is_file()
    }
    return found[max(found)] if found else None


def archive_previous_run(folder: Path) -> Path | None:
    """Move what an earlier run left into ``previous`` (whose own content goes), so that no run overwrites another.

    Only files that lorakit writes are touched, whatever else lies in the folder.

    Returns:
        Where it went, or None where the folder held no run.
    """
    if not (folder / EVENTS_FILE).is_file():
        return None
    archive = folder / PREVIOUS
    shutil.rmtree(archive, ignore_errors=True)
    archive.mkdir()
    for pattern in _FILES_OF_A_RUN:
        for path in folder.glob(pattern):
            os.replace(path, archive / path.name)
    return archive


def write_text(file: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = file.with_name(file.name + ".writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file whole or not at all, readable for people."""
    write_text(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
