"""In what an answer differs from the one that was expected, character by character."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

from lorakit.report.markup import Markup, element, joined

# Two texts that have less in common match by chance, in letters here and there.
_LEAST_IN_COMMON = 0.5
# So do stretches of equal characters up to this length between two differences.
_LONGEST_CHANCE = 2


def marked_differences(expected: str, answer: str) -> Markup:
    """Mark an answer: ``<mark>`` what was not expected, ``<del>`` what was expected and is missing.

    An answer that has little in common with the expected one is marked whole, without what is missing.
    """
    if expected == answer:
        return joined([answer])
    matcher = SequenceMatcher(None, expected, answer, autojunk=False)
    if not expected or not answer or matcher.ratio() < _LEAST_IN_COMMON:
        return element("mark", answer) if answer else element("del", expected)
    return joined(_marked(expected, answer, matcher))


def _marked(expected: str, answer: str, matcher: SequenceMatcher[str]) -> Iterator[Markup]:
    for is_equal, missing, added in _stretches(expected, answer, matcher):
        if is_equal:
            yield joined([added])
            continue
        if missing:
            yield element("del", missing)
        if added:
            yield element("mark", added)


def _stretches(expected: str, answer: str, matcher: SequenceMatcher[str]) -> Iterator[tuple[bool, str, str]]:
    """Yield (equal or not, text expected, text answered), with chance matches counted as differences."""
    codes = matcher.get_opcodes()
    missing = added = ""
    for place, (kind, start, end, answer_start, answer_end) in enumerate(codes):
        is_between = 0 < place < len(codes) - 1
        if kind == "equal" and not (is_between and end - start <= _LONGEST_CHANCE):
            if missing or added:
                yield False, missing, added
            missing = added = ""
            yield True, expected[start:end], answer[answer_start:answer_end]
        else:
            missing += expected[start:end]
            added += answer[answer_start:answer_end]
    if missing or added:
        yield False, missing, added
