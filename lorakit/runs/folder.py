"""The folder a run writes into: made, held by one process at a time, and its write errors explained."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lorakit.errors import LorakitError, RunError
from lorakit.runs.storage import working_folder

LOCK_FILE = ".lorakit-lock"
_WRITE_ERRORS = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOENT", "ENOTDIR", "EIO", "EFBIG"),
        *("ESTALE", "ETIMEDOUT", "ENODEV", "ENXIO", "EREMOTEIO", "ENOTCONN"),  # of what lies on another machine
    )
    if hasattr(errno, name)
}
# What libraries in other languages make of them. PyTorch's C++ and NumPy say no more than the last ones.
_WORDS_OF_OTHERS = (
    re.compile(r"os error (\d+)"),
    re.compile(r"Os \{ code: (\d+)"),
    re.compile(r"errno:? (\d+)", re.IGNORECASE),
)
_WITHOUT_NUMBER = re.compile(
    r"iostream error|file write failed|No space left on device|failed writing file|requested and \d+ written"
)


def open_folder(folder: Path, setting: str = "output_dir") -> Path:
    """Make sure that a folder exists and can be written to.

    Args:
        folder: To be opened.
        setting: That names it.

    Raises:
        RunError: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RecursionError) as error:  # a path of a thousand parts is made one within another
        reason = error.strerror if isinstance(error, OSError) else "too many folders in each other"
        raise RunError(f"{setting}: {str(folder)!r} cannot be written ({reason})", "choose another folder") from error
    return folder


@contextmanager
def writing_alone(folder: Path, setting: str = "output_dir") -> Iterator[None]:
    """Open a folder for one process at a time; the lock goes with the process, however that ends.

    Raises:
        RunError: It cannot be written, or another process is writing into it.
    """
    open_folder(folder, setting)
    with locked(folder / LOCK_FILE, f"{setting}: another run is writing into {str(folder)!r}", setting):
        yield


@contextmanager
def locked(file: Path, fault: str, setting: str, is_kept: bool = True) -> Iterator[None]:
    """Hold a lock.

    Args:
        file: The lock's.
        fault: What it means that another process has it.
        setting: That names the folder.
        is_kept: Whether the file stays; else it goes while the lock is held, and who has waited makes it anew.

    Raises:
        RunError: Another process has it, or there are no locks here.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(fault, f"wait for it, or set another {setting}") from error
    except NotImplementedError as error:  # some network file systems have no locks
        raise RunError(
            f"{setting}: {str(file.parent)!r} is on a file system without locks", "choose another"
        ) from error
    try:
        yield
    finally:
        if not is_kept:
            with suppress(OSError):
                file.unlink()
        lock.release()


def check_room(folder: Path, needed_bytes: int, what: str, setting: str = "output_dir") -> str:
    """Hold what will be written against the room on its disk, before anything is.

    Args:
        folder: That exists.
        needed_bytes: Of it.
        what: Takes that much: ``two checkpoints and the adapter``.
        setting: That names the folder.

    Returns:
        Both, in words.

    Raises:
        RunError: There is less.
    """
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise RunError(
            f"{setting}: {what} take {_size(needed_bytes)}, and the disk of {str(folder)!r} has {_size(free)} left",
            f"make room, or set another {setting}",
        )
    return f"{what} take about {_size(needed_bytes)} of {_size(free)} free"


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


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
    try:
        yield
    except LorakitError:
        raise
    except Exception as error:  # the libraries that write raise classes of their own, or none of their own
        reason = _write_fault(error, folder)
        if reason is None:
            raise
        raise RunError(
            f"{setting}: {str(folder)!r} can no longer be written ({reason}{_room_left(folder)})", remedy
        ) from error


def _write_fault(error: Exception, folder: Path) -> str | None:
    """Return what the operating system says, in whatever words a library hands it on; None for other errors."""
    if isinstance(error, OSError) and error.errno is not None:
        is_ours = error.errno in _WRITE_ERRORS and not _is_elsewhere(error, folder)
        return os.strerror(error.errno) if is_ours else None
    text = str(error)
    numbers = [int(found[1]) for words in _WORDS_OF_OTHERS if (found := words.search(text))]
    if any(number in _WRITE_ERRORS for number in numbers):
        return os.strerror(numbers[0])
    return "the system does not say why" if _WITHOUT_NUMBER.search(text) else None


def _is_elsewhere(error: OSError, folder: Path) -> bool:
    """Tell whether it was another folder's file; a missing one that is not named may be any."""
    if not isinstance(error.filename, str):
        return error.errno == errno.ENOENT
    file = Path(error.filename).absolute()
    return not any(file.is_relative_to(own.absolute()) for own in (folder, working_folder(folder)))


def _room_left(folder: Path) -> str:
    with suppress(OSError):
        return f"; {_size(shutil.disk_usage(folder).free)} free"
    return ""
