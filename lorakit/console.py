"""The only room that prints.

Results go to standard output; progress, notes and warnings to standard error, so that a pipe sees only results.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lorakit.outgoing import for_a_screen, printable

_KEPT_LINES = 1000  # of a session's history


def silence() -> None:
    """Print nothing any more, in a process that works beside the one that speaks; errors still show."""
    _out().quiet = True
    _err().quiet = True


@cache
def _out() -> Console:
    # Outside a terminal rich assumes 80 columns, too few for answers side by side.
    width = None if sys.stdout.isatty() else 120
    return Console(highlight=False, soft_wrap=True, width=width)


@cache
def _err() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def result(text: str = "") -> None:
    """Print a line that belongs to the task's result."""
    _out().print(for_a_screen(text), markup=False)


# What is said in a block, for who wants to say it again.
_overhearing: ContextVar[list[tuple[str, str]] | None] = ContextVar("overhearing", default=None)


@contextmanager
def overheard() -> Iterator[list[tuple[str, str]]]:
    """Collect the notes and warnings of a block, which are printed all the same; see `repeat`."""
    said: list[tuple[str, str]] = []
    token = _overhearing.set(said)
    try:
        yield said
    finally:
        _overhearing.reset(token)


def repeat(said: Iterable[tuple[str, str]]) -> None:
    """Print notes and warnings again."""
    for kind, text in said:
        (warn if kind == "warning" else note)(text)


def note(text: str) -> None:
    """Say what is going on, or what was chosen and why."""
    if (said := _overhearing.get()) is not None:
        said.append(("note", text))
    _err().print(for_a_screen(text), markup=False)


def warn(text: str) -> None:
    """Say what the user should look at though the run goes on."""
    if (said := _overhearing.get()) is not None:
        said.append(("warning", text))
    _err().print(Text.assemble(("warning:", "yellow"), " ", for_a_screen(text)))


def facts(title: str, rows: Sequence[tuple[str, str]], say: Callable[[str], None] = note) -> None:
    """Print name/value pairs, one a line, under a title.

    Args:
        title: Above them.
        rows: The pairs.
        say: `note`, or `result` where they are what the task was asked for.
    """
    width = max(len(name) for name, _ in rows)
    say(title)
    for name, value in rows:
        say(f"  {name:<{width}}  {value}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output."""
    drawn = Table(
        title=_plain(title), title_justify="left", show_lines=any(len(cell) > 40 for row in rows for cell in row)
    )
    for column in columns:
        drawn.add_column(_plain(column), overflow="fold")
    for row in rows:
        drawn.add_row(*map(_plain, row))
    _out().print(drawn, soft_wrap=False)


def _plain(text: str) -> Text:
    return Text(for_a_screen(text))


@dataclass(frozen=True)
class MarkedText:
    """A stretch of text and whether the model is trained on it."""

    text: str
    is_trained: bool


def marked(parts: Sequence[MarkedText]) -> None:
    """Print tokens in sequence, trained ones coloured; without colour they stand in [brackets]."""
    is_coloured = _out().is_terminal and _out().color_system is not None
    line = Text()
    for part in parts:
        text = for_a_screen(part.text)
        if is_coloured:
            line.append(text, style="black on green" if part.is_trained else "dim")
            line.append("|", style="bright_black")
        else:
            line.append(f"[{text}]" if part.is_trained else f"{text}|")
    _out().print(line)


def stream(text: str) -> None:
    """Write a piece of an answer to standard output at once; control characters are shown, not obeyed."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def label(text: str) -> None:
    """Print a label without a line end, before a stream; it goes where `prompt` puts its own."""
    channel = sys.stdout if is_interactive() else sys.stderr
    channel.write(for_a_screen(text))
    channel.flush()


def prompt(label: str) -> str:
    """Read one line; the label goes to standard error unless a person sits at a terminal.

    Raises:
        EOFError: The input has ended.
    """
    label = for_a_screen(label)
    if is_interactive():
        with suppress(ImportError):  # absent on Windows, whose terminal edits lines by itself
            import readline  # noqa: F401 - gives input() line editing and history
        return input(label)
    sys.stderr.write(label)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def edit_lines(complete: Callable[[str], list[str]]) -> None:
    """Let a person at a terminal complete words with Tab and find earlier lines with the arrow keys.

    The lines are kept for the next session in ``~/.lorakit_history``, where that can be written.

    Args:
        complete: From the line up to the cursor to what its last word may become.
    """
    if not is_interactive():
        return
    try:
        import readline
    except ImportError:  # absent on Windows
        return
    readline.set_completer_delims(" ")
    readline.set_completer(
        lambda _, state: [*complete(readline.get_line_buffer()[: readline.get_endidx()]), None][state]
    )
    is_libedit = "libedit" in (readline.__doc__ or "")  # macOS
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
    file = Path("~/.lorakit_history").expanduser()
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(_KEPT_LINES)
    atexit.register(_keep_history, readline, file)


def _keep_history(readline: Any, file: Path) -> None:
    with suppress(OSError):
        readline.write_history_file(file)
        file.chmod(0o600)  # questions may be private


def is_interactive() -> bool:
    """Whether a person types and reads here, rather than a pipe."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class ProgressLine:
    """A bar with a loss and a speed beside it; in a log file, one line whenever the caller says so."""

    def __init__(self, progress: Progress, total: int | None, description: str) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total, figures="")

    def update(self, completed: int, figures: str = "") -> None:
        """Move the bar to ``completed`` and show ``figures`` beside it."""
        self._progress.update(self._task, completed=completed, figures=figures)


@contextmanager
def progress(total: int | None, description: str) -> Iterator[ProgressLine]:
    """Show a progress bar on standard error while the block runs (nothing outside a terminal); None: no known end."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err(), disable=not _err().is_terminal) as bar:
        yield ProgressLine(bar, total, description)
