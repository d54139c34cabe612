"""The files of rows: counts, rows that are not used, and which tokens are trained."""

from __future__ import annotations

from lorakit.console import MarkedText
from lorakit.language import translated
from lorakit.report.content import DataOverview, ShownSequence
from lorakit.report.markup import Markup, element, folded, joined, note, section, table, words

_MOST_LINES = 200
# Of a long row the beginning and the end, where the answer stands.
_FIRST_TOKENS, _LAST_TOKENS = 200, 400


def data(overview: DataOverview | None) -> Markup:
    """Show the counts of every file, and name the rows that are not used."""
    if overview is None:
        return Markup()
    counts = table(
        ["", *overview.files], [(translated(name), *rest) for name, *rest in overview.counts], class_="numbers"
    )
    said = [words("p", line) for line in overview.warnings]
    return section("Data", counts, *said, _not_used(overview.not_used), _fields(overview.fields))


def masks(overview: DataOverview | None) -> Markup:
    """Show a few training sequences with the trained tokens marked."""
    if overview is None:
        return Markup()
    shown = [_sequence(sequence) for sequence in overview.sequences]
    if not shown:
        return Markup()
    explained = joined(
        [words("span", "trained", class_="token trained"), " ", words("span", "not trained", class_="token")]
    )
    return section(
        "What is trained",
        note("The first training rows as the model sees them, token by token. The loss is taken over trained tokens."),
        element("p", explained),
        *shown,
    )


def _not_used(lines: tuple[str, ...]) -> Markup:
    if not lines:
        return words("p", "Every row is used.")
    listed = [words("li", line) for line in lines[:_MOST_LINES]]
    if len(lines) > _MOST_LINES:
        listed.append(words("li", f"... and {len(lines) - _MOST_LINES:,} more"))
    return folded(f"Rows that are not used: {len(lines):,}", element("ul", *listed))


def _fields(rows: tuple[tuple[str, ...], ...]) -> Markup:
    if not rows:
        return Markup()
    used = [(*place, translated(purpose)) for *place, purpose in rows]
    return folded("What became of every field", table(["file", "field", "rows", "used as"], used))


def _sequence(sequence: ShownSequence) -> Markup:
    parts = sequence.parts
    left_out = len(parts) - _FIRST_TOKENS - _LAST_TOKENS
    if left_out > 0:
        gap = words("em", f" … {left_out:,} tokens … ")
        tokens = [*map(_token, parts[:_FIRST_TOKENS]), gap, *map(_token, parts[-_LAST_TOKENS:])]
    else:
        tokens = [_token(part) for part in parts]
    return element("figure", element("figcaption", sequence.origin), element("div", *tokens, class_="tokens"))


def _token(part: MarkedText) -> Markup:
    return element("span", part.text, class_="token trained" if part.is_trained else "token")
