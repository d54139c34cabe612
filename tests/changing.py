"""Files that change while a task reads them: at any of its openings, in every way in which a file can.

An audit hook of Python sees what is opened, and stand-ins before the libraries in Rust what these open.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Openings:
    """What of a folder is opened, in order, and the change that is made at one of these openings.

    Attributes:
        folder: Whose files are looked at.
        at: The number of the opening at which the change is made; None to look only.
        is_after: Whether it is made with the next thing that happens when that file is open, or before it is.
        change: Made once.
    """

    folder: Path
    at: int | None = None
    is_after: bool = False
    change: Callable[[], Any] = lambda: None
    names: list[str] = field(default_factory=list)
    is_due: bool = False
    is_busy: bool = False

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an opening, and make the change where it is its time."""
        if self.is_busy:  # what a change opens itself
            return
        if self.is_due:
            self._make()
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        name = os.path.abspath(os.fsdecode(arguments[0]))
        if not name.startswith(f"{self.folder}{os.sep}"):
            return
        number = len(self.names)
        self.names.append(name)
        if number == self.at:
            self.is_due = True
            if not self.is_after:
                self._make()

    def _make(self) -> None:
        self.is_due, self.is_busy = False, True
        self.change()
        self.is_busy = False


_seen: list[Openings] = []
_installed: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for openings in _seen:
        openings.see(event, arguments)


def _announced(function: Callable[..., Any]) -> Callable[..., Any]:
    def announcing(file: Any, *arguments: Any, **named: Any) -> Any:
        _hook("open", (file,))
        found = function(file, *arguments, **named)
        _hook("opened", ())
        return found

    return announcing


@contextlib.contextmanager
def watched(openings: Openings, patch: Any) -> Iterator[Openings]:
    """See what is opened inside.

    Args:
        openings: What is looked for, and done.
        patch: pytest's monkeypatch.
    """
    import safetensors

    if not _installed:
        sys.addaudithook(_hook)  # which stays for as long as this process
        _installed.append(True)
    own, opener = safetensors.safe_open, _announced(safetensors.safe_open)
    for name, module in list(sys.modules.items()):
        if name.startswith(("safetensors", "transformers", "peft")) and vars(module).get("safe_open") is own:
            patch.setattr(module, "safe_open", opener)
    _seen.append(openings)
    try:
        yield openings
    finally:
        _seen.remove(openings)


def _cleared(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _longer(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"\0 x")


def _a_folder(path: Path) -> None:
    _cleared(path)
    path.mkdir()


def _a_link(path: Path) -> None:
    _cleared(path)
    path.symlink_to(os.devnull)


def _a_link_to_itself(path: Path) -> None:
    _cleared(path)
    path.symlink_to(path.name)


def _unreadable(path: Path) -> None:
    content = path.read_bytes()
    _cleared(path)
    path.write_bytes(bytes(byte ^ 0x55 for byte in content))


# What becomes of a file, by its name; another one takes its place in two ways of their own.
DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut short": _truncated,
    "emptied": _emptied,
    "longer": _longer,
    "gone": _cleared,
    "a folder": _a_folder,
    "a link to a device": _a_link,
    "a link to itself": _a_link_to_itself,
    "other bytes": _unreadable,
}


def replaced(path: Path, other: Path) -> None:
    """Put another file in the place of one, as whoever is careful does."""
    aside = path.with_name(f".{path.name}.new")
    shutil.copyfile(other, aside)
    aside.replace(path)


def written_over(path: Path, other: Path) -> None:
    """Write another content into a file where it stands."""
    with path.open("r+b") as stream:
        stream.write(other.read_bytes())
        stream.truncate()
