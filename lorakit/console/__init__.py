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
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorakit.console.streams import err as _err
from lorakit.console.streams import manner, naming_output, silence, speak
from lorakit.console.streams import out as _out
from lorakit.console.under_way import ProgressLine, display, progress
from lorakit.errors import DataError
from lorakit.language import ERROR_WORDS, language, translated
from lorakit.outgoing import for_a_screen, printable

LONGEST_LINE = 50_000_000  # characters of standard input; a row may bring its pictures along
_MOST_SKIPPED = 1_000_000_000  # characters of a line; one of a device never ends
_KEPT_OF_LINE = 100  # characters of one that is skipped
_KEPT_LINES = 1000  # of a session's history
_FEWEST_COLUMNS = 20
_NO_END = 10**9  # columns of a file


__all__ = [
    "LongLineError",
    "MarkedText",
    "ProgressLine",
    "detail",
    "details",
    "edit_lines",
    "facts",
    "is_interactive",
    "label",
    "marked",
    "naming_output",
    "note",
    "overheard",
    "progress",
    "prompt",
    "repeat",
    "result",
    "silence",
    "speak",
    "stream",
    "suggest",
    "table",
    "typed",
    "warn",
]


def result(text: str = "") -> None:
    """Print a line that belongs to the task's result."""
    with display().paused():
        _print(_out(), Text(translated(for_a_screen(text))))


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
    display().break_line()
    _print(_err(), Text(translated(for_a_screen(text))))


def detail(text: str) -> None:
    """Say what only somebody who looks for something can use: with ``--verbose`` alone."""
    if manner().is_verbose:
        note(text)


def warn(text: str) -> None:
    """Say what the user should look at though the run goes on."""
    if (said := _overhearing.get()) is not None:
        said.append(("warning", text))
    display().break_line()
    word = ERROR_WORDS.get(language(), ("", "", "warning"))[2]
    _print(_err(), Text.assemble((f"{word}:", "yellow"), " ", translated(for_a_screen(text))))


def suggest(what: str, command: str, say: Callable[[str], None] = note) -> None:
    """Name a next step, with the command on a line of its own that nothing breaks, to be pasted.

    Args:
        what: It does.
        command: The command line.
        say: `note`, or `result`.
    """
    console = _out() if say is result else _err()
    say(f"{what}:")
    with display().paused():
        console.print(Text(f"  {for_a_screen(command)}"), soft_wrap=True)


def _print(console: Console, text: Text) -> None:
    """Break lines between words in a terminal; in a file, not at all."""
    console.print(text, soft_wrap=not console.is_terminal)


def facts(title: str, rows: Sequence[tuple[str, str]], say: Callable[[str], None] = note) -> None:
    """Print name/value pairs under a title; in a terminal, long values go on below their beginning.

    Args:
        title: Above them.
        rows: The pairs.
        say: `note`, or `result` where they are what the task was asked for.
    """
    rows = [(translated(name), translated(for_a_screen(value))) for name, value in rows]
    width = max(cell_len(name) for name, _ in rows)
    console = _out() if say is result else _err()
    room = max(console.width - width - 4, _FEWEST_COLUMNS) if console.is_terminal else _NO_END
    say(title)
    for name, value in rows:
        lines = [line.plain.rstrip() for line in Text(value).wrap(console, room)] or [""]
        for start, line in zip([name, *[""] * (len(lines) - 1)], lines, strict=True):
            say(f"  {set_cell_size(start, width)}  {line}")


def details(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print facts as `detail` does a line."""
    if manner().is_verbose:
        facts(title, rows)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output."""
    drawn = Table(
        title=_plain(translated(title)),
        title_justify="left",
        show_lines=any(len(cell) > 40 for row in rows for cell in row),
    )
    for column in columns:
        drawn.add_column(_plain(translated(column)), overflow="fold")
    for row in rows:
        drawn.add_row(*map(_plain, [translated(cell) for cell in row] if columns[0] == "" else row))
    with display().paused():
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
    with display().paused():
        _out().print(line)


def stream(text: str) -> None:
    """Write a piece of an answer to standard output at once; control characters are shown, not obeyed."""
    with display().paused(), naming_output():
        sys.stdout.write(printable(text))
        sys.stdout.flush()


def label(text: str) -> None:
    """Print a label without a line end, before a stream; it goes where `prompt` puts its own."""
    channel = sys.stdout if is_interactive() else sys.stderr
    with display().paused(), naming_output(channel is sys.stdout):
        channel.write(translated(for_a_screen(text)))
        channel.flush()


def prompt(label: str) -> str:
    """Read one line; the label goes to standard error unless a person sits at a terminal.

    Raises:
        EOFError: The input has ended.
        DataError: See `read_line`; its line is left.
    """
    label = translated(for_a_screen(label))
    if is_interactive():
        with suppress(ImportError):  # absent on Windows, whose terminal edits lines by itself
            import readline  # noqa: F401 - gives input() line editing and history
        with display().paused():
            return input(label)
    display().break_line()
    sys.stderr.write(label)
    sys.stderr.flush()
    line = read_line()
    if label:
        sys.stderr.write("\n")  # nobody has pressed Enter here
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


class LongLineError(DataError):
    """A line of standard input is longer than any question; the next one may do.

    Attributes:
        beginning: Of the line.
    """

    beginning = ""


def read_line() -> str:
    """Read one line of standard input with its end; "" where the input has ended.

    Raises:
        LongLineError: It is longer than any question; it has been read to its end, and none of it is kept.
        DataError: It never ends, as that of a device.
    """
    line = sys.stdin.readline(LONGEST_LINE + 1)
    if len(line) <= LONGEST_LINE:
        return line
    beginning, skipped = line[:_KEPT_OF_LINE], 0
    while line and not line.endswith("\n"):
        skipped += len(line)
        if skipped > _MOST_SKIPPED:
            raise DataError("standard input: a line that never ends", "end each question with a line end")
        line = sys.stdin.readline(LONGEST_LINE)
    error = LongLineError(
        f"standard input: a line has more than {LONGEST_LINE // 10**6} million characters", "ask a shorter question"
    )
    error.beginning = beginning
    raise error


def typed() -> str:
    """Return what stood in the line that an interrupt has ended."""
    if not is_interactive() or "readline" not in sys.modules:
        return ""
    return str(sys.modules["readline"].get_line_buffer())


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
