"""What may come in: regular files, which can be read to their end, and no more of them than memory is meant for."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

MOST_JSON_BYTES = 40_000_000  # as objects they take a dozen times that; the longest known list of weights has 9 MB
_FEWEST_BYTES, _FEW_BRACKETS = 16, 200_000  # for each list or object: files of brackets alone take 25 times their size
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_NOTHING_THERE = "there is no such file"
_NO_FILE = "is a device, a pipe or a socket, not a file"


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
    return None if stat.S_ISREG(mode) else _NO_FILE


def open_file(file: Path, most_bytes: int) -> BufferedReader:
    """Open a regular file to read it.

    Args:
        file: Its name.
        most_bytes: That it may have.

    Raises:
        OSError: It is not there, is no regular file (which is found out without waiting for it), or is larger.
    """
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    stream = os.fdopen(descriptor, "rb", closefd=True)
    found = os.fstat(descriptor)
    fault = None
    if not stat.S_ISREG(found.st_mode):
        fault = OSError(errno.ENXIO, _NO_FILE, str(file))
    elif found.st_size > most_bytes:
        fault = OSError(errno.EFBIG, f"has more than {most_bytes} bytes", str(file))
    if fault is not None:
        stream.close()
        raise fault
    return stream


def read_whole(file: Path, most_bytes: int = MOST_JSON_BYTES) -> bytes:
    """Read a regular file to its end; see `open_file`."""
    with open_file(file, most_bytes) as stream:
        return stream.read()


def read_json(file: Path, most_bytes: int = MOST_JSON_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        OSError: See `open_file`.
        ValueError: It is no JSON, or nested too deeply for any use.
    """
    try:
        content = read_whole(file, most_bytes)
        if has_many_brackets(content):
            raise ValueError("is mostly brackets")
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def has_many_brackets(content: bytes, fewest_bytes: int = _FEWEST_BYTES) -> bool:
    """Tell whether JSON is made to fill the memory: with more lists and objects than anybody writes."""
    return content.count(b"[") + content.count(b"{") > _FEW_BRACKETS + len(content) // fewest_bytes


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


def has_half_character(text: str) -> bool:
    """Tell whether a text holds an unpaired surrogate, which JSON and YAML can write and UTF-8 cannot."""
    return _HALF_CHARACTER.search(text) is not None
