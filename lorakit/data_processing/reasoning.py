"""Telling what a model thinks from what it answers, where both stand in one text."""

from __future__ import annotations

import re

OPENING, CLOSING = "<think>", "</think>"
# As models of other families write it: OpenThoughts' rows, Magistral, Kimi-VL, Seed-OSS.
_OTHER_TAGS = {
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<seed:think>": "</seed:think>",
}
OTHER_OPENINGS = tuple(_OTHER_TAGS)
_SOLUTION = re.compile(r"\s*<\|begin_of_solution\|>\s*(.*?)\s*(?:<\|end_of_solution\|>\s*)?", re.DOTALL)
# Reasoning whose opening tag stood in the prompt. On a line of its own, since prose too may name the tag.
_CLOSING_LINE = re.compile(r"\n[ \t]*</think>[ \t]*(?:\n|$)")
_CLOSING_BEGUN = re.compile(r"(?:(?<=\n)|(?<![\s`'\"(\[]))</think>")


def split_reasoning(text: str, is_begun: bool = False) -> tuple[str | None, str]:
    """Split an answer into its reasoning and the rest.

    Reasoning stands between the two tags at the very beginning; an answer that only talks about them has none. Of
    tags that come twice the first closing one counts, as a model's reasoning ends there.

    Args:
        text: The answer.
        is_begun: Whether the prompt has opened the reasoning already.

    Returns:
        The reasoning without the line breaks around it, None where there is none or it is empty; and the rest.
    """
    if (found_elsewhere := _split_at_other_tags(text.lstrip())) is not None:
        return found_elsewhere
    before, opening, after = text.partition(OPENING)
    if opening:
        if before.strip() or CLOSING not in after:
            return None, text
        reasoning, _, rest = after.partition(CLOSING)
    else:
        found = (_CLOSING_BEGUN if is_begun else _CLOSING_LINE).search(text)
        if found is None or not text[: found.start()].strip():
            return None, text
        reasoning, rest = text[: found.start()], text[found.end() :]
    return _trimmed(reasoning, rest)


def _split_at_other_tags(text: str) -> tuple[str | None, str] | None:
    opening = next(filter(text.startswith, OTHER_OPENINGS), None)
    if opening is None or _OTHER_TAGS[opening] not in text:
        return None
    reasoning, _, rest = text.removeprefix(opening).partition(_OTHER_TAGS[opening])
    solution = _SOLUTION.fullmatch(rest)
    return _trimmed(reasoning, solution[1] if solution else rest)


def _trimmed(reasoning: str, rest: str) -> tuple[str | None, str]:
    return (reasoning.strip("\n") if reasoning.strip() else None), rest.lstrip("\n")


def joined(reasoning: str, content: str) -> str:
    """Write both as one text, for a chat template that knows no reasoning."""
    return f"{OPENING}\n{reasoning.strip()}\n{CLOSING}\n\n{content}"
