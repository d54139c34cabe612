"""Pictures of the terminal for the READMEs, from a real run: ``python scripts/draw_terminal.py [NAME ...]``.

Needs tmux. A terminal of 80 columns runs the command; what stands on its screen, with its colours, becomes an SVG.
"""

from __future__ import annotations

import html
import io
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
_COLUMNS = 80
_LONGEST_SECONDS = 1200
_MOST_BYTES = 200_000
_TEXT = re.compile(r'(<text [^>]*x="[^"]*"[^>]*textLength=")[^"]*("[^>]*>)([^<]*)(?=</text>)')
_CELL_WIDTH = 12.2  # of rich's picture, which takes letters for cells
_FONTS = re.compile(r"\s*@font-face \{\{.*?\}\}", re.DOTALL)  # would be fetched from elsewhere


class Terminal:
    """A terminal in which a command runs.

    Args:
        command: Run in the folder of the project.
        rows: Of the screen.
    """

    def __init__(self, command: list[str], rows: int) -> None:
        self._name = f"picture-{time.monotonic_ns()}"
        line = f"clear; echo '$ {_shown(command)}'; {shlex.join(command)}; sleep 600"
        size = ["-x", str(_COLUMNS), "-y", str(rows)]
        subprocess.run(["tmux", "new-session", "-d", "-s", self._name, *size, line], cwd=ROOT, check=True)

    def screen(self) -> str:
        """Return what stands on it, with its colours."""
        found = subprocess.run(
            ["tmux", "capture-pane", "-e", "-p", "-t", self._name], capture_output=True, text=True, check=True
        )
        return found.stdout.rstrip()

    def wait_for(self, pattern: str) -> str:
        """Return the screen as soon as a pattern stands on it."""
        end = time.monotonic() + _LONGEST_SECONDS
        while time.monotonic() < end:
            shown = self.screen()
            if re.search(pattern, shown):
                return shown
            time.sleep(0.2)
        raise TimeoutError(f"{pattern!r} has not come in {_LONGEST_SECONDS} s")

    def close(self) -> None:
        """End the command."""
        subprocess.run(["tmux", "kill-session", "-t", self._name], check=False)


def _shown(command: list[str]) -> str:
    words = [word for word in command[2:] if not word.startswith(tempfile.gettempdir()) and word != "--output_dir"]
    return shlex.join(["python", "main.py", *words])


def draw(screen: str, file: Path) -> None:
    """Write a screen as an SVG."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in screen.splitlines():
        console.print(Text.from_ansi(line), no_wrap=True, crop=True)
    picture = console.export_svg(title="lorakit", code_format=_FONTS.sub("", CONSOLE_SVG_FORMAT))
    picture = _TEXT.sub(_as_wide_as_its_cells, picture)
    if len(picture.encode()) > _MOST_BYTES:
        raise SystemExit(f"{file.name} has more than {_MOST_BYTES} bytes")
    file.write_text(re.sub(r"[ \t]+$", "", picture, flags=re.MULTILINE), encoding="utf-8")


def _as_wide_as_its_cells(found: re.Match[str]) -> str:
    """Give a text the width of its cells: two for each Chinese letter."""
    start, middle, text = found.groups()
    return f"{start}{cell_len(html.unescape(text)) * _CELL_WIDTH:.1f}{middle}{text}"


def main(names: Sequence[str]) -> None:
    """Draw the pictures, or some of them."""
    if shutil.which("tmux") is None:
        raise SystemExit("tmux is not installed")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        wanted = {
            "preview": (["--task", "preview"], 130, r"what a training would take", r"\n[^\n]*item 3:"),
            "training": (
                ["--task", "train", "--output_dir", folder],
                24,
                r"epoch 6/10[^\n]*\n(.*\n)*.*training.*/80",
                r"\Z",
            ),
        }
        for name in names or wanted:
            words, rows, pattern, end = wanted[name]
            terminal = Terminal([sys.executable, "main.py", *words], rows)
            try:
                draw(re.split(end, terminal.wait_for(pattern))[0].rstrip(), PICTURES / f"{name}.svg")
            finally:
                terminal.close()


if __name__ == "__main__":
    main(sys.argv[1:])
