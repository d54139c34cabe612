"""What may stand where a setting names a file: a regular file, which can be read to its end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_NOTHING_THERE = "there is no such file"


def fault_of_file(name: str) -> str | None:
    """Say why a name cannot be read as a file; None where it can.

    A device or a pipe has no end to wait for: reading ``/dev/zero`` fills the memory, a pipe without a writer hangs.
    """
    try:
        mode = os.stat(name).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return _NOTHING_THERE
    except OSError as error:  # a name too long, a circle of links, a folder that may not be entered
        return f"cannot be read ({error.strerror})"
    except ValueError:  # a NUL character, or half a character
        return "is not a possible file name"
    if stat.S_ISDIR(mode):
        return "is a folder"
    return None if stat.S_ISREG(mode) else "is a device, a pipe or a socket, not a file"


def leads_out(file: Path) -> bool:
    """Tell whether a file is a link out of its folder, to what nobody meant to give away.

    A hub's cache has its folders full of links, into ``blobs`` beside them.
    """
    if not file.is_symlink():
        return False
    folder, target = file.parent.resolve(), file.resolve()
    places = [folder, *([folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [])]
    return not any(target.is_relative_to(place) for place in places)


def is_missing(fault: str) -> bool:
    """Tell a name where nothing stands from one where the wrong thing does."""
    return fault == _NOTHING_THERE


def is_folder(path: Path) -> bool:
    """Tell whether a folder stands there; a name that no file could have is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
