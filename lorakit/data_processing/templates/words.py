"""Words of a text that a byte-level tokenizer encodes by themselves, so that each is encoded only once.

Before merging, such a tokenizer splits a text by a regular expression. Of those in use none continues over a space what
began with something else, nor over a mark what has letters or digits: what stands before and what begins with it are
never one piece. Nor is, in some, one digit with another. So texts may be cut there, and the tokens of a text are those
of its words, one after the other.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MOST_WORDS = 200_000  # that are kept
# Cut are spaces after what no alphabet takes for white space, and marks after letters and digits.
_BORDER = re.compile(
    "(?<=[!-~\u3001\u3002\u4e00-\u9fa5\uff01-\uff60])(?= )"
    "|(?<=[0-9A-Za-z\u4e00-\u9fa5])(?=[,.?!;:\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])"
)
_BORDER_OR_DIGIT = re.compile(f"{_BORDER.pattern}|(?<=[0-9])(?=[0-9])")  # where each digit is a piece of its own
_NUMBERS = {r" ?\p{N}", r" ?\p{N}+", r"\p{N}+", r"\p{N}{1,3}"}
_APOSTROPHES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# What the regular expressions of GPT-2, Llama 3, Qwen 2 to 3.8, gpt-oss and their kin are made of. In each a space is
# matched at the beginning, or among white space alone; a mark at the beginning, or among marks.
_ALTERNATIVES = frozenset(
    {
        *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", _APOSTROPHES),
        *(r" ?\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"),
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_APOSTROPHES}?",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_APOSTROPHES}?",
        *(r"\p{N}", r" ?\p{N}", r" ?\p{N}+", r"\p{N}+", r"\p{N}{1,3}"),
        *(r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"),
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        *(r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+", r"\s*[\r\n]", r"[\r\n]"),
    }
)


class Words:
    """The words of one tokenizer with their token ids.

    Args:
        backend: Of the tokenizer, byte-level BPE.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._cut = _cutting(backend)
        self._known: dict[str, bytes] = {}

    def encode_all(self, texts: Sequence[str]) -> list[bytes]:
        """Encode texts that hold no special tokens.

        Returns:
            The ids of each as 32-bit integers of this machine.
        """
        if self._cut is None:
            return [array("i", found.ids).tobytes() for found in self._encoded(texts)]
        words = [self._cut(text) for text in texts]
        known = self._known
        missing = list(set(chain.from_iterable(words)).difference(known))
        known.update((word, array("i", found.ids).tobytes()) for word, found in self._pairs(missing))
        joined = [b"".join(map(known.__getitem__, parts)) for parts in words]
        if len(known) > _MOST_WORDS:
            known.clear()
        return joined

    def _pairs(self, words: Sequence[str]) -> Iterator[tuple[str, Any]]:
        return zip(words, self._encoded(words), strict=True)

    def _encoded(self, texts: Sequence[str]) -> list[Any]:
        return list(self._backend.encode_batch_fast(list(texts), add_special_tokens=False))


def _cutting(backend: Tokenizer) -> Callable[[str], list[str]] | None:
    """Return what cuts a text into words; None where this tokenizer may look across spaces."""
    added = backend.get_added_tokens_decoder().values()
    if any(" " in token.content or token.lstrip or token.rstrip or token.single_word for token in added):
        return None
    steps = steps_of(backend.pre_tokenizer)
    if not all(map(_stops_at_spaces, steps)):
        return None
    return (_BORDER_OR_DIGIT if any(map(_parts_digits, steps)) else _BORDER).split


def _parts_digits(step: dict[str, Any]) -> bool:
    """Tell a step after which each digit stands alone."""
    if step["type"] == "Digits":
        return bool(step.get("individual_digits"))
    alternatives = set(_alternatives(step.get("pattern", {}).get("Regex", "")))
    return r"\p{N}" in alternatives and alternatives.isdisjoint(_NUMBERS)


def _stops_at_spaces(step: dict[str, Any]) -> bool:
    if step["type"] in {"ByteLevel", "Digits"}:  # the former splits as GPT-2 does, or not at all
        return True
    pattern = step.get("pattern", {})
    is_plain = step["type"] == "Split" and step.get("behavior") == "Isolated" and not step.get("invert")
    return is_plain and "Regex" in pattern and _ALTERNATIVES.issuperset(_alternatives(pattern["Regex"]))


def _alternatives(pattern: str) -> Iterable[str]:
    """Split a regular expression at the bars outside its brackets."""
    parts, depth, is_class, place = [""], 0, False, 0
    while place < len(pattern):
        character = pattern[place : place + (2 if pattern[place] == "\\" else 1)]
        place += len(character)
        if character in "[]":
            is_class = character == "["
        elif character in "()" and not is_class:
            depth += 1 if character == "(" else -1
        if character == "|" and not depth and not is_class:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def steps_of(part: Any) -> list[dict[str, Any]]:
    """List the steps of a pre-tokenizer or a normalizer."""
    if part is None:
        return []
    step = json.loads(part.__getstate__())
    names = ("pretokenizers", "normalizers")
    return next((list(step[name]) for name in names if name in step), [step])
