"""The catalogues of messages: ``python scripts/messages.py update`` after a message has changed, then ``compile``.

Messages stay plain f-strings in the code. What an f-string can say is its template, ``{name}: holds no rows``, which is
the key of its translation; `lorakit.language` finds the template of a text that is about to be printed. Every file of
the package is looked through; messages.toml lists what looks like a message and is none, and what is put together.
"""

from __future__ import annotations

import ast
import datetime
import io
import itertools
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lorakit"
CATALOGUES = PACKAGE / "language"
LANGUAGES = ("zh",)
_FEWEST_LETTERS = 3
_FEWEST_WORDS_AFTER_FLAG = 3
_PATTERN_FUNCTIONS = ("compile", "match", "search", "fullmatch", "findall", "finditer", "sub", "split")
_FIELD = re.compile(r"\{[a-z][a-z0-9_]*_\d+\}")
_NEVER = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)  # a catalogue that says when changes without a change


_LISTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
FILES_WITHOUT_MESSAGES: dict[str, str] = _LISTS["files_without_messages"]
NOT_SHOWN = frozenset(itertools.chain(*_LISTS["not_shown"].values()))
WHOLE: tuple[str, ...] = tuple(itertools.chain(*_LISTS["shown"].values()))
_OF_PATTERNS = {f"{module}.{name}" for module in ("re", "regex") for name in (*_PATTERN_FUNCTIONS, "escape")}
# Jinja, Go's templates, Python, HTML, regular expressions.
_PROGRAM = re.compile(r"\{%|\{\{ |^\s*(?:from|import) \w|^\s*</?[\w!]|\\[psdwS]|\(\?", re.MULTILINE)


def templates_of(file: Path) -> Iterator[tuple[str, int]]:
    """Yield every message of a file as a template, with its line."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    ignored = set(_ignored(tree))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in ignored or id(node) in inside:
            continue
        template = _template(node)
        if template is not None and _is_message(template):
            yield template, node.lineno


def _ignored(tree: ast.AST) -> Iterator[int]:
    """Yield what is no message: documentation, keys, names of settings and files."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield id(node.value)
        if isinstance(node, ast.Subscript):
            yield from (id(part) for part in ast.walk(node.slice))
        if isinstance(node, ast.Compare):
            yield from (id(part) for part in ast.walk(node))
        if isinstance(node, ast.Call):
            yield from (id(part) for part in _ignored_of_call(node))
        for note in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            yield from (id(part) for part in ast.walk(note)) if note is not None else ()


def _ignored_of_call(call: ast.Call) -> Iterator[ast.AST]:
    """Yield regular expressions, types that are cast to, and words that stand in one text to be split."""
    called = ast.unparse(call.func)
    if called in _OF_PATTERNS or called == "cast":
        yield from ast.walk(call.args[0])
    if isinstance(call.func, ast.Attribute) and call.func.attr == "split" and not call.args:
        yield from ast.walk(call.func.value)


def _template(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    parts: list[str] = []
    for number, part in enumerate(node.values):
        parts.append(str(part.value) if isinstance(part, ast.Constant) else f"{{{_name(part, number)}}}")
    return "".join(parts)


def _name(part: ast.AST, number: int) -> str:
    value = part.value if isinstance(part, ast.FormattedValue) else part
    name = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else "value"
    return f"{name.strip('_').lower()}_{number}"


def _is_message(template: str) -> bool:
    """Tell what a person reads from what a program does."""
    text = _FIELD.sub("", template)
    words = [word for word in text.split() if sum(letter.isalpha() for letter in word) >= 1]
    letters = sum(letter.isalpha() and letter.isascii() for letter in text)
    if _PROGRAM.search(template) or (text.startswith("--") and len(words) < _FEWEST_WORDS_AFTER_FLAG):
        return False
    return len(words) >= 2 and letters >= _FEWEST_LETTERS


@cache
def looked_through() -> dict[str, list[str]]:
    """Return the templates of all files of the package, with the files where they stand."""
    found: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if name not in FILES_WITHOUT_MESSAGES:
            for template, _ in templates_of(file):
                found.setdefault(template, []).append(f"lorakit/{name}")
    return found


def all_templates() -> dict[str, list[str]]:
    """Return all that a catalogue must have."""
    shown = {template: files for template, files in looked_through().items() if template not in NOT_SHOWN}
    return shown | {text: ["scripts/messages.toml"] for text in WHOLE}


def catalogue_file(language: str) -> Path:
    """Return where the translations of a language are written."""
    return CATALOGUES / f"{language}.po"


def update(language: str) -> None:
    """Bring a catalogue up to date: new messages without a translation, those that are gone taken out."""
    from babel.messages.catalog import Catalog
    from babel.messages.pofile import read_po, write_po

    file = catalogue_file(language)
    known = read_po(io.BytesIO(file.read_bytes()), locale=language) if file.exists() else Catalog(locale=language)
    new = Catalog(locale=language, project="lorakit", fuzzy=False, creation_date=_NEVER, revision_date=_NEVER)
    fields = {template: message.string for message in known if (template := message.id)}
    for template, places in sorted(all_templates().items()):
        new.add(template, fields.pop(template, ""), locations=[(name, 0) for name in sorted(set(places))])
    written = io.BytesIO()
    write_po(written, new, sort_output=True, width=0, omit_header=False, include_lineno=False)
    file.write_bytes(written.getvalue())


def compiled(language: str) -> bytes:
    """Return the compiled form of a catalogue."""
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    written = io.BytesIO()
    write_mo(written, read_po(io.BytesIO(catalogue_file(language).read_bytes()), locale=language))
    return written.getvalue()


if __name__ == "__main__":
    for one in LANGUAGES:
        if sys.argv[1:] == ["update"]:
            update(one)
        elif sys.argv[1:] == ["compile"]:
            (CATALOGUES / f"{one}.mo").write_bytes(compiled(one))
        else:
            raise SystemExit("python scripts/messages.py update|compile")
