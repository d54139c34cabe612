"""The two streams, who may speak on them, and how much is said."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from rich.console import Console

from lorakit.errors import OutputError
from lorakit.outgoing import let_go

_WIDTH_OF_A_FILE = 120  # outside a terminal rich assumes 80 columns, too few for answers side by side


@dataclass
class Manner:
    """How lorakit speaks in this process.

    Attributes:
        is_verbose: Whether details are said that only somebody who looks for something can use.
    """

    is_verbose: bool = False


@cache
def manner() -> Manner:
    """Return how lorakit speaks; `speak` changes it."""
    return Manner()


def speak(is_verbose: bool) -> None:
    """Say details or leave them out, from now on."""
    manner().is_verbose = is_verbose


def silence() -> None:
    """Print nothing any more, in a process that works beside the one that speaks; errors still show."""
    out().quiet = True
    err().quiet = True


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let go what nobody reads any more, as after ``| head``: a task goes on, where rich would end it."""
        self.quiet = True
        let_go(self.file)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print; where nothing can be written, as to a file on a full disk, say so of results, and no more of notes."""
        with naming_output(is_result=not self.stderr):
            super().print(*objects, **how)


@contextmanager
def naming_output(is_result: bool = True) -> Iterator[None]:
    """Tell a stream that cannot be written from the files of a run, which are written meanwhile.

    Args:
        is_result: Whether it is standard output; what standard error does not take, nobody can be told.

    Raises:
        OutputError: Standard output cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        let_go(sys.stdout if is_result else sys.stderr)
        if is_result:
            raise OutputError(
                f"standard output cannot be written ({error.strerror})",
                "look at where it leads, and the room on that disk; what the task has left in its folder stays",
            ) from error


@cache
def out() -> Console:
    """Return standard output, for results."""
    width = None if sys.stdout.isatty() else _WIDTH_OF_A_FILE
    return _Console(highlight=False, soft_wrap=True, width=width, color_system=_colours())


@cache
def err() -> Console:
    """Return standard error, for all else."""
    return _Console(stderr=True, highlight=False, soft_wrap=True, color_system=_colours())


def _colours() -> Literal["auto"] | None:
    """Leave out all styles where NO_COLOR is set: rich itself would still print in bold."""
    return None if os.environ.get("NO_COLOR") else "auto"
