"""Other languages than English: what is about to be shown is looked up by the template that it was made from.

Messages are plain f-strings all over the code. A catalogue has what they can say as templates, ``{name_0}: holds no
rows``; a text that fits one is taken apart into its fields, and put together again in another language. What fits none
stays English, so that nothing is ever said wrongly. Records, files for machines and exit codes are the same in every
language.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

LANGUAGES = ("en", "zh")
ERROR_WORDS = {"zh": ("错误", "提示", "警告")}
_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
_FIELD = re.compile(r"\{([a-z][a-z0-9_]*_\d+)\}")
_MAGIC = 0x950412DE
_HEADER_BYTES = 28
_DEEPEST = 4
_MOST_IN_A_ROW = 8
_MOST_PIECES = 200  # of a line that are looked up; one of more stays English


@dataclass
class _Spoken:
    language: str = "en"


@cache
def _spoken() -> _Spoken:
    return _Spoken()


def language() -> str:
    """Return the language of this process: en or zh."""
    return _spoken().language


def speak_language(wanted: str) -> None:
    """Speak a language from now on.

    Args:
        wanted: en, zh, or auto for that of the environment.
    """
    _spoken().language = language_of_environment(os.environ) if wanted == "auto" else wanted


def language_of_environment(variables: Mapping[str, str]) -> str:
    """Return the language that LC_ALL, LC_MESSAGES or LANG asks for, the first of them that is set."""
    chosen = next((variables[name] for name in _VARIABLES if variables.get(name)), "")
    return next((known for known in LANGUAGES if chosen.lower().startswith(known)), "en")


def language_of_arguments(argv: list[str]) -> str:
    """Return what a command line asks for before it is understood, so that its faults and its help are said so."""
    asked = [
        word.partition("=")[2] for word in argv if re.fullmatch(r"(--set=)?language=(en|zh|auto)|--language=\w+", word)
    ]
    asked += [following for word, following in itertools.pairwise(argv) if word == "--language"]
    wanted = asked[-1].removeprefix("language=") if asked else "auto"
    return wanted if wanted in LANGUAGES else "auto"


def translated(text: str) -> str:
    """Return a text in the language of this process, line by line; as it is, where it has no translation."""
    if language() == "en" or not text:
        return text
    catalogue = _catalogue(language())
    if "\n" in text and (whole := catalogue.shown(text, catalogue.whole)) is not None:
        return whole
    return "\n".join(catalogue.shown(line, catalogue.line) or line for line in text.split("\n"))


@dataclass(frozen=True)
class _Template:
    source: str
    target: str

    @cached_property
    def literal(self) -> int:
        """How many characters of it are fixed: more of them say more surely that a text is made from it."""
        return len(_FIELD.sub("", self.source))

    @cached_property
    def anchor(self) -> str:
        """The longest fixed piece, which a text must have."""
        return max(_FIELD.sub("\0", self.source).split("\0"), key=len)

    def filled(self, fields: Mapping[str, str]) -> str:
        """Return its translation with fields in their places."""
        return _FIELD.sub(lambda field: fields[field[1]], self.target)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What a text made from it looks like."""
        parts = _FIELD.split(self.source)
        written = [re.escape(part) for part in parts]
        for place in range(1, len(parts), 2):
            before, after = parts[place - 1], parts[place + 1]
            may_be_empty = (not before and place > 1) or (not after and place < len(parts) - 2)
            written[place] = f"(?P<{parts[place]}>.{'*' if may_be_empty else '+'}?)"
        return re.compile("".join(written), re.DOTALL)


@dataclass(frozen=True)
class _Found:
    literal: int  # characters of it that are fixed, in its fields too
    text: str


class _Catalogue:
    """The texts of a language."""

    def __init__(self, pairs: Mapping[str, str]) -> None:
        self._fixed = {source: target for source, target in pairs.items() if not _FIELD.search(source)}
        found = [_Template(source, target) for source, target in pairs.items() if _FIELD.search(source)]
        self._templates = sorted(found, key=lambda template: -template.literal)
        self._known: dict[tuple[str, bool], _Found | None] = {}  # of one line: a piece comes up in many readings

    def whole(self, text: str, depth: int = 0, may_begin_with_place: bool = True) -> _Found | None:
        """Return the translation of a text that is one message; None where it is none.

        Args:
            text: The text.
            depth: How many messages it is a part of.
            may_begin_with_place: Whether its first field may have a place before it, ``config.yaml line 3: name``.
        """
        key = text, may_begin_with_place
        if key not in self._known and len(self._known) < _MOST_PIECES:
            self._known[key] = None  # where it is a part of itself
            self._known[key] = self._whole(text, depth, may_begin_with_place)
        return self._known.get(key)

    def _whole(self, text: str, depth: int, may_begin_with_place: bool) -> _Found | None:
        if text in self._fixed:
            return _Found(len(text), self._fixed[text])
        of_template = self._of_template(text, depth, may_begin_with_place)
        row = self._row(text, depth)
        if of_template is None or (row is not None and row.literal > of_template.literal):
            return row
        return of_template

    def _of_template(self, text: str, depth: int, may_begin_with_place: bool) -> _Found | None:
        has_lines = "\n" in text
        for template in self._templates:
            if has_lines and "\n" not in template.source:
                continue  # its lines are messages of their own
            if template.anchor in text and (found := template.pattern.fullmatch(text)):
                if not may_begin_with_place and template.source[0] == "{" and ": " in found[1]:
                    continue
                fields = {name: self.part(value, depth + 1) for name, value in found.groupdict().items()}
                literal = template.literal + sum(field.literal for field in fields.values())
                return _Found(literal, template.filled({name: field.text for name, field in fields.items()}))
        return None

    def _row(self, text: str, depth: int) -> _Found | None:
        """Translate messages that stand in a row; None where one of them is none, or a single word."""
        if depth >= _DEEPEST:
            return None
        for between, written in (("; ", "；"), (", ", "，")):
            parts = text.split(between)
            if not 1 < len(parts) <= _MOST_IN_A_ROW or not all(" " in part for part in parts):
                continue
            found = []
            for part in parts:
                if (known := self.whole(part, depth + 1)) is None:
                    break
                found.append(known)
            else:
                return _Found(sum(one.literal for one in found), written.join(one.text for one in found))
        return None

    def part(self, text: str, depth: int) -> _Found:
        """Translate what stands in a field, where it is itself a message of several words."""
        return self.line(text, depth) if depth <= _DEEPEST and " " in text.strip() else _Found(0, text)

    def shown(self, text: str, read: Callable[[str], _Found | None]) -> str | None:
        """Return a text in this language; None where it has none, or can be taken apart in too many ways."""
        self._known.clear()
        found = read(text)
        return found.text if found is not None and len(self._known) < _MOST_PIECES else None

    def line(self, text: str, depth: int = 0) -> _Found:
        """Translate a line: all of it, or what stands behind the places that it begins with."""
        stripped = text.strip(" ")
        if not stripped:
            return _Found(0, text)
        before, after = text[: text.index(stripped)], text[text.index(stripped) + len(stripped) :]
        found = max(self._readings(stripped, depth), key=lambda reading: reading.literal, default=None)
        if found is None:
            found = self.whole(stripped, depth)
        return _Found(0, text) if found is None else replace(found, text=before + found.text + after)

    def _readings(self, text: str, depth: int) -> Iterator[_Found]:
        """Yield what a text may be made from: all of it one message, a heading, or a place and a message behind it."""
        if (whole := self.whole(text, depth, may_begin_with_place=False)) is not None:
            yield whole
        if text.endswith(":") and (whole := self.whole(text[:-1], depth)) is not None:
            yield _Found(whole.literal, f"{whole.text}：")
        for place in _places(text):
            head, tail = text[:place], text[place + 2 :]
            if (rest := self.whole(tail, depth, may_begin_with_place=False)) is not None:
                shown = self.whole(head, depth)
                yield _Found(rest.literal + 2, f"{shown.text if shown else head}: {rest.text}")


def _places(text: str) -> Iterator[int]:
    return (found.start() for found in re.finditer(": ", text))


@cache
def _catalogue(wanted: str) -> _Catalogue:
    file = Path(__file__).parent / f"{wanted}.mo"
    return _Catalogue(read_catalogue(file.read_bytes()))


def read_catalogue(content: bytes) -> dict[str, str]:
    """Read the messages of a compiled catalogue (GNU gettext's manual, "The Format of GNU MO Files")."""
    order = "<" if struct.unpack("<I", content[:4])[0] == _MAGIC else ">"
    _, _, count, sources, targets, *_ = struct.unpack(f"{order}7I", content[:_HEADER_BYTES])

    def text(table: int, number: int) -> str:
        length, start = struct.unpack_from(f"{order}2I", content, table + 8 * number)
        return content[start : start + length].decode("utf-8")

    pairs = {text(sources, number): text(targets, number) for number in range(count)}
    pairs.pop("", None)  # the header
    return pairs


def error_lines(message: str, hint: str | None) -> list[str]:
    """Return an error as it is shown: in another language than English its English first line stands below.

    Args:
        message: Place and fault.
        hint: The remedy.
    """
    shown = translated(message)
    error, remedy, _ = ERROR_WORDS.get(language(), ("error", "hint", "warning"))
    lines = [f"{error}: {shown}", *([f"{remedy}: {translated(hint)}"] if hint else [])]
    first = message.split("\n", maxsplit=1)[0]
    if language() != "en":
        lines.append(f"(error: {first})")
    return "\n".join(lines).split("\n")
