"""How much longer the rules of a tokenizer make a text: replacements one after another multiply, and have no bound."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any

MOST_GROWTH = 50  # <|newline|> for a line end takes 11 characters; the longest of Unicode's own foldings 18
_RULES = re.compile(r'"(?:normalizer|decoder)"\s*:\s*')
_FILLING = re.compile(r'"padding"\s*:\s*')
_MOST_FILLED = 100_000  # tokens
_SPELT_OTHERWISE = re.compile(r"\\u00[4-7]")  # a letter, so that a name of the rules is not found
_DECODER = json.JSONDecoder()
_SIZE_BYTES = 4
_BYTES_OF_A_CHARACTER = 3


def growth_of(text: str) -> int:
    """Return the factor by which normalizer or decoder may lengthen a text, by the lengths of what they put in.

    Beyond a hundred thousand tokens to which texts are filled up, it is their number.

    Args:
        text: Of a tokenizer.json. Its vocabulary is not taken apart, which takes a second where it is large.
    """
    if _SPELT_OTHERWISE.search(text):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return 1  # it will not be loaded
        text = json.dumps(content)  # where names are spelt plainly
    filled = max(map(_most_asked, _parts(_FILLING, text)), default=0)
    return max(map(_growth, _parts(_RULES, text)), default=1) if filled <= _MOST_FILLED else filled


def _parts(name: re.Pattern[str], text: str) -> Iterator[Any]:
    for found in name.finditer(text):
        try:
            yield _DECODER.raw_decode(text, found.end())[0]
        except (ValueError, RecursionError):
            continue


def _most_asked(rules: Any) -> int:
    """Return the largest whole number in some settings."""
    if isinstance(rules, dict | list):
        return max(map(_most_asked, rules.values() if isinstance(rules, dict) else rules), default=0)
    return rules if isinstance(rules, int) else 0


def _growth(rules: Any) -> int:
    factor, left = 1, [rules]
    while left and factor <= MOST_GROWTH:
        rule = left.pop()
        if isinstance(rule, dict):
            factor *= max(1, _longest(rule))
            left += rule.values()
        elif isinstance(rule, list):
            left += rule
    return factor


def _longest(rule: dict[str, Any]) -> int:
    """Return the length of what one rule puts in."""
    kind = rule.get("type")
    if kind == "Precompiled" and isinstance(packed := rule.get("precompiled_charsmap"), str):
        try:
            content = base64.b64decode(packed)
        except (binascii.Error, ValueError):
            return 1
        tree_bytes = int.from_bytes(content[:_SIZE_BYTES], "little")
        if tree_bytes > len(content):  # reserved before it is read
            return tree_bytes
        longest = max(map(len, content[_SIZE_BYTES + tree_bytes :].split(b"\0")))
        return longest // _BYTES_OF_A_CHARACTER
    written = {"Replace": rule.get("content"), "Prepend": rule.get("prepend")}.get(str(kind))
    return len(written) if isinstance(written, str) else 1
