"""List every place where lorakit raises one of its own errors, what it says there, and the test that names it.

python scripts/list_raises.py            all of them, one a line
python scripts/list_raises.py --unnamed  those of which no test holds the words
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LEAST_WORDS = 2
_LEAST_CHARACTERS = 11  # of a piece of a message by which a test can be told to mean it


@dataclass(frozen=True)
class Place:
    """One place that raises.

    Attributes:
        file: Below the checkout.
        line: In it.
        function: In which it stands, with its class.
        error: The class that is raised.
        texts: The constant pieces of its message and its hint.
    """

    file: str
    line: int
    function: str
    error: str
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """What stays the same when lines move."""
        return f"{self.file} {self.function}: {self.texts[0] if self.texts else self.error}"


def places(folder: Path = ROOT / "lorakit") -> Iterator[Place]:
    """Yield every place that raises an error of lorakit's own, where its text is written."""
    for file in sorted(folder.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for function, node in _calls(tree, ""):
            error = node.func.id if isinstance(node.func, ast.Name) else ""
            texts = tuple(_texts(node))
            if error.endswith("Error") and texts and error not in _BUILTIN:
                yield Place(file.relative_to(ROOT).as_posix(), node.lineno, function, error, texts)


_BUILTIN = {"ValueError", "TypeError", "FileNotFoundError", "KeyError", "RuntimeError", "AttributeError", "OSError"}


def _calls(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        inner = function
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}".strip(".")
        if isinstance(child, ast.Call):
            yield inner, child
        yield from _calls(child, inner)


def _texts(call: ast.Call) -> Iterator[str]:
    for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
        for node in ast.walk(argument):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.strip()) > 2:
                yield " ".join(node.value.split())


def named_in(place: Place, tests: dict[str, str]) -> str | None:
    """Return a test file that holds words of a place's message; None where there is none."""
    for text in place.texts:
        words = re.findall(r"[\w'./-]+", text)
        for size in range(min(len(words), 8), min(len(words), _LEAST_WORDS) - 1, -1):
            for start in range(len(words) - size + 1):
                piece = r"\W+".join(map(re.escape, words[start : start + size]))
                if sum(map(len, words[start : start + size])) < _LEAST_CHARACTERS:
                    continue
                found = next((name for name, content in tests.items() if re.search(piece, content)), None)
                if found:
                    return found
    return None


def test_files() -> dict[str, str]:
    """Return the text of every test."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "tests").rglob("*.py"))
    }


def main() -> None:
    """Print the list."""
    tests = test_files()
    for place in places():
        where = named_in(place, tests)
        if where is None or "--unnamed" not in sys.argv:
            sys.stdout.write(f"{place.file}:{place.line} {place.error} [{where or 'NO TEST'}] {place.texts[0]}\n")


if __name__ == "__main__":
    main()
