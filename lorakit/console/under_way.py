"""What is going on, so that nothing is silent for longer than two seconds.

In a terminal it is a moving line that goes when its work is done. Elsewhere it is a line to which a dot is added as
long as the work lasts.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from lorakit.console.streams import err
from lorakit.language import translated
from lorakit.outgoing import for_a_screen

_BETWEEN_DOTS_SECONDS = 1.8
_DOTS_A_LINE = 30


class ProgressLine:
    """One piece of work: how far it is, with a loss or a speed beside it.

    Args:
        display: Shows it.
        total: Of its parts; None where nobody knows.
        description: What is going on.
    """

    def __init__(self, display: Display, total: int | None, description: str) -> None:
        self._display = display
        self.total = total
        self.description = translated(description)
        self.completed = 0
        self.figures = ""
        self.started = time.monotonic()

    def update(self, completed: int, figures: str = "") -> None:
        """Move on to ``completed`` and show ``figures`` beside it."""
        self.completed, self.figures = completed, translated(figures)
        self._display.show(self)

    @property
    def state(self) -> str:
        """How far it is, and for how long it has been under way."""
        seconds = int(time.monotonic() - self.started)
        parts = [f"{self.completed}/{self.total}" if self.total else "", self.figures]
        return "  ".join([*filter(None, parts), f"{seconds // 60}:{seconds % 60:02d}"])


class Display:
    """All work under way in this process, the innermost last, which is the one that is shown."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._lines: list[ProgressLine] = []
        self._bar: Progress | None = None
        self._ticker: threading.Thread | None = None
        self._dots = 0
        self._is_over = threading.Event()

    def begin(self, line: ProgressLine) -> None:
        """Show a piece of work, in front of what it is a part of."""
        with self._lock:
            self.break_line()
            self._lines.append(line)
            if err().quiet:
                return
            if err().is_terminal:
                self._erase()
                self._draw()
            elif self._ticker is None:
                self._is_over = threading.Event()
                self._ticker = threading.Thread(target=self._tick, args=(self._is_over,), daemon=True)
                self._ticker.start()

    def end(self, line: ProgressLine) -> None:
        """Show what it was a part of again."""
        with self._lock:
            self.break_line()
            self._lines.remove(line)
            if self._bar is not None:
                self._erase()
                self._draw()
            if not self._lines and self._ticker is not None:
                self._is_over.set()
                self._ticker = None

    def show(self, line: ProgressLine) -> None:
        """Draw a piece of work anew."""
        with self._lock:
            if self._bar is not None and self._lines and self._lines[-1] is line:
                self._bar.update(self._bar.task_ids[0], completed=line.completed, figures=line.figures)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the screen to something else inside this context."""
        with self._lock:
            self.break_line()
            had_bar = self._bar is not None
            self._erase()
            try:
                yield
            finally:
                if had_bar:
                    self._draw()

    def break_line(self) -> None:
        """End a line of dots, before something else is printed."""
        with self._lock:
            if self._dots:
                state = f" {self._lines[-1].state}" if self._lines else ""
                self._write(f"{state}\n")
                self._dots = 0

    def _draw(self) -> None:
        if not self._lines:
            return
        line = self._lines[-1]
        columns: list[ProgressColumn] = [SpinnerColumn("line"), TextColumn("{task.description}", markup=False)]
        if line.total:
            columns += [BarColumn(bar_width=20), TextColumn("{task.completed:.0f}/{task.total:.0f}")]
        columns += [TextColumn("{task.fields[figures]}", markup=False), _TimeColumn()]
        self._bar = Progress(*columns, console=err(), transient=True, redirect_stdout=False, redirect_stderr=False)
        self._bar.add_task(line.description, total=line.total, completed=line.completed, figures=line.figures)
        self._bar.start()

    def _erase(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _tick(self, is_over: threading.Event) -> None:
        while not is_over.wait(_BETWEEN_DOTS_SECONDS):
            with self._lock:
                if is_over.is_set() or not self._lines:
                    return
                line = self._lines[-1]
                self._write("." if self._dots else f"{for_a_screen(line.description)} .")
                self._dots += 1
                if self._dots == _DOTS_A_LINE:
                    self.break_line()

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # nobody listens any more: what the work itself prints will say so
            self._is_over.set()


class _TimeColumn(TimeElapsedColumn):
    """The time that is left where it can be told, else the time that has gone."""

    def render(self, task: Task) -> Text:
        """Return it with what it is."""
        left = task.time_remaining if task.total else None
        if left is None:
            return Text.assemble(super().render(task))
        return Text(f"{int(left) // 60}:{int(left) % 60:02d} left")


@cache
def display() -> Display:
    """Return what shows the work of this process."""
    return Display()


@contextmanager
def progress(total: int | None, description: str) -> Iterator[ProgressLine]:
    """Show on standard error what is going on while the block runs; ``total`` None: no known end."""
    line = ProgressLine(display(), total, description)
    display().begin(line)
    try:
        yield line
    finally:
        display().end(line)
