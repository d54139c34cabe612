"""The folder a run writes into: made, kept from overwriting an earlier run, written to in whole files."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorakit.errors import RunError
from lorakit.runs.records import EVENTS_FILE

PREVIOUS = "previous"
ADAPTER_FOLDER = "lora_model"
CARD_FILE = "README.md"  # beside the adapter
RESULTS_FILE = "eval_results.json"
PREDICTIONS_FILE = "predictions.jsonl"
CURVE_FILE = "loss_curve.png"
REPORT_FILE = "report.html"
USED_CONFIG_FILE = "config_used.yaml"
UNUSED_ROWS_FILE = "unused_rows.txt"
LOCK_FILE = ".lock"
_WRITE_ERRORS = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOENT", "EIO", "EFBIG")
}
_FILES_OF_A_RUN = (
    EVENTS_FILE,
    ADAPTER_FOLDER,
    RESULTS_FILE,
    PREDICTIONS_FILE,
    CURVE_FILE,
    REPORT_FILE,
    USED_CONFIG_FILE,
    UNUSED_ROWS_FILE,
    "run.json",
    "checkpoint-*",
)


def open_folder(folder: Path, setting: str = "output_dir") -> Path:
    """Make sure that a folder exists and can be written to.

    Args:
        folder: To be opened.
        setting: That names it.

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
            f"{setting}: {str(folder)!r} cannot be written ({error.strerror})", "choose another folder"
        ) from error
    return folder


@contextmanager
def writing_alone(folder: Path) -> Iterator[None]:
    """Open a folder for one run at a time; the lock goes with the process, however that ends.

    Raises:
        RunError: It cannot be written, or another run is writing into it.
    """
    from filelock import FileLock, Timeout

    open_folder(folder)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"output_dir: another run is writing into {str(folder)!r}", "wait for it, or set another output_dir"
        ) from error
    except NotImplementedError as error:  # some network file systems have no locks
        raise RunError(f"output_dir: {str(folder)!r} is on a file system without locks", "choose another") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def explaining_write_errors(folder: Path, remedy: str, setting: str = "output_dir") -> Iterator[None]:
    """Turn a failure to write into the error that a user needs.

    Args:
        folder: That is written into.
        remedy: What to do about it.
        setting: That names the folder.

    Raises:
        RunError: The disk is full, or the folder can no longer be written.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        is_elsewhere = error.errno == errno.ENOENT and str(folder) not in str(error.filename)
        if error.errno not in _WRITE_ERRORS or is_elsewhere:
            raise
        reason = error.strerror or str(error)
        raise RunError(f"{setting}: {str(folder)!r} can no longer be written ({reason})", remedy) from error
    except SafetensorError as error:  # its own class for what the operating system says
        if "Os {" not in str(error) and "os error" not in str(error):
            raise
        raise RunError(f"{setting}: {str(folder)!r} can no longer be written ({error})", remedy) from error


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
    """Write a JSON file whole or not at all, readable for people; what is no finite number becomes null."""
    write_text(file, json.dumps(_finite(content), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    """Replace infinity and NaN, which strict readers of JSON refuse."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
