"""List every place where lorakit raises one of its own errors, what it says there, and the test that names it.

python scripts/list_raises.py            all of them, one a line
python scripts/list_raises.py --unnamed  those of which no test holds the words
python scripts/list_raises.py --edges    and calls into libraries that their function does not catch
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LEAST_WORDS, _MOST_WORDS = 2, 8
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
    """Return a test that holds words of a place's message; None where there is none.

    Args:
        place: That raises.
        tests: From the names of tests to their words; see `words_of`.
    """
    for piece in _pieces(place):
        found = next((name for name, words in tests.items() if piece in words), None)
        if found:
            return found
    return None


def _pieces(place: Place) -> Iterator[str]:
    """Yield the shortest pieces of a message by which it can be told: a test that holds a longer one holds these."""
    for text in place.texts:
        words = words_of(text).split()
        for start in range(len(words)):
            for end in range(start + min(len(words), _LEAST_WORDS), min(start + _MOST_WORDS, len(words)) + 1):
                if sum(map(len, words[start:end])) >= _LEAST_CHARACTERS:
                    yield " ".join(words[start:end])
                    break


def words_of(text: str) -> str:
    """Return a text as its words alone, with a space between two."""
    return " ".join(re.findall(r"\w+", text))


def test_files() -> dict[str, str]:
    """Return the words of every test."""
    return {
        path.relative_to(ROOT).as_posix(): words_of(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "tests").rglob("*.py"))
    }


@dataclass(frozen=True)
class Edge:
    """A call into a library that raises what it likes where a file is not as it should be.

    Attributes:
        file: Below the checkout.
        line: In it.
        function: In which it stands, with its class.
        call: What is called.
    """

    file: str
    line: int
    function: str
    call: str

    @property
    def name(self) -> str:
        """What stays the same when lines move."""
        return f"{self.file} {self.function}"


_READING = (
    *("from_pretrained", "load_file", "safe_open", "read_text", "read_bytes", "loads", "validate_json", "from_dict"),
    *("b64decode", "load_workbook", "ZipFile", "ParquetFile", "GGUFReader", "load_from_json", "snapshot_download"),
)


def open_edges(folder: Path = ROOT / "lorakit") -> Iterator[Edge]:
    """Yield every call of `_READING`, and of ``open``, that its own function does not stand by to catch."""
    for file in sorted(folder.rglob("*.py")):
        for function, call, line, is_caught in _edges(ast.parse(file.read_text(encoding="utf-8")), "", False):
            if not is_caught:
                yield Edge(file.relative_to(ROOT).as_posix(), line, function, call)


def _edges(node: ast.AST, function: str, is_caught: bool) -> Iterator[tuple[str, str, int, bool]]:
    for child in ast.iter_child_nodes(node):
        inner, caught = function, is_caught
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner, caught = f"{function}.{child.name}".strip("."), False
        if isinstance(node, ast.Try) and node.handlers and child in node.body:
            caught = True
        if isinstance(child, ast.Call):
            name = getattr(child.func, "attr", getattr(child.func, "id", ""))
            if name in _READING or (name == "open" and isinstance(child.func, ast.Name)):
                yield inner, name, child.lineno, caught
        yield from _edges(child, inner, caught)


def main() -> None:
    """Print the list."""
    tests = test_files()
    for place in places():
        where = named_in(place, tests)
        if where is None or "--unnamed" not in sys.argv:
            sys.stdout.write(f"{place.file}:{place.line} {place.error} [{where or 'NO TEST'}] {place.texts[0]}\n")
    if "--edges" in sys.argv:
        for edge in open_edges():
            sys.stdout.write(f"{edge.file}:{edge.line} {edge.function} calls {edge.call}\n")


if __name__ == "__main__":
    main()
