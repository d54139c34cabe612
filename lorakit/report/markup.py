"""The few shapes of HTML that a report is built from. Every text passes through `escaped` on its way into one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from lorakit.language import translated


class Markup(str):
    """Text that is HTML already; all other text is escaped."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Return a text as HTML; markup stays what it is."""
    return text if isinstance(text, Markup) else Markup(escape(text, quote=True))


def words(name: str, text: str, **attributes: str) -> Markup:
    """Return an element with a text of lorakit's own, in the language of the page."""
    return element(name, translated(text), **attributes)


def joined(parts: Iterable[str]) -> Markup:
    """Join parts, escaping those that are not markup."""
    return Markup("".join(escaped(part) for part in parts))


def element(name: str, *parts: str, **attributes: str) -> Markup:
    """Return an element; ``class_`` stands for ``class``, and ``_`` in other attributes for ``-``."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"' for key, value in attributes.items() if value
    )
    return Markup(f"<{name}{written}>{joined(parts)}</{name}>")


def section(title: str, *parts: str) -> Markup:
    """Return a section with its heading, or nothing where all its parts are empty."""
    return element("section", words("h2", title), *parts) if any(parts) else Markup()


def note(text: str) -> Markup:
    """Return a sentence that explains what stands beside it."""
    return words("p", text, class_="note")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], class_: str = "") -> Markup:
    """Return a table in a box of its own, which scrolls where the table is wider than the page."""
    titles = element("tr", *(words("th", column, scope="col") for column in columns))
    head = element("thead", titles) if any(columns) else Markup()
    is_of_texts = "texts" in class_.split()
    labels = [
        translated(column) if is_of_texts else "" for column in columns
    ]  # a telephone shows cells below each other, each with its own
    body = [
        element("tr", *(element("td", cell, data_label=label) for cell, label in zip(row, labels, strict=True)))
        for row in rows
    ]
    drawn = element("table", head, element("tbody", *body), class_=class_)
    return element("div", drawn, class_="box", tabindex="0")


def folded(summary: str, *parts: str) -> Markup:
    """Return what a reader opens by a click."""
    return element("details", words("summary", summary), *parts)


def clipped(text: str, most: int) -> str:
    """Shorten a text, saying by how much."""
    return text if len(text) <= most else text[:most] + translated(f"… ({len(text) - most:,} more characters)")
