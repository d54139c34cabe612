"""Regular expressions from strangers over the names of layers: tried within a limit, replaced by what they chose."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Value = TypeVar("Value")
_MOST_CHARACTERS = 200_000
_MOST_SECONDS = 1.0  # for all names together; sound ones take milliseconds
_MOST_PATTERNS = 20_000
_MOST_COUNTS = 4  # such as {1,3}: each may be one within another, and regex writes them all out
_PLAIN = re.compile(r"[\w.-]*")  # a dot stands for any character, which takes no time


class PatternError(ValueError):
    """A pattern is none, or takes too long."""


def layer_names(model: Any) -> list[str]:
    """List the modules of a base model by the names that they have without an adapter."""
    own = (name for name, _ in model.named_modules() if ".lora_" not in name)
    return list(dict.fromkeys(name.replace(".base_layer", "") for name in own if name))


def chosen_by(pattern: str, names: Sequence[str], is_end: bool = False) -> list[str]:
    """Return the names that a pattern fits, whole, or where it says so from any dot on.

    Raises:
        PatternError: It is no pattern, or takes more than a second: some patterns take years.
    """
    import regex  # unlike Python's own, it can be told when to stop

    if len(pattern) > _MOST_CHARACTERS:
        raise PatternError(f"has {len(pattern)} characters, more than {_MOST_CHARACTERS}")
    counts = re.findall(r"\{([^}]*)\}?", pattern)
    if len(counts) > _MOST_COUNTS or not all(re.fullmatch(r"\d?,?\d?", count) for count in counts):
        raise PatternError(f"counts with other than single digits, or more than {_MOST_COUNTS} times")
    end = time.monotonic() + _MOST_SECONDS
    try:
        re.compile(pattern)  # what is a pattern for PEFT alone
        compiled = regex.compile(rf"(.*\.)?({pattern})" if is_end else pattern)
        found = []
        for name in names:
            if compiled.fullmatch(name, timeout=max(end - time.monotonic(), 0.001)):
                found.append(name)
    except TimeoutError:
        raise PatternError("takes more than a second to be matched with the names of layers") from None
    except (re.error, regex.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise PatternError(f"is not a regular expression ({str(error) or type(error).__name__})") from None
    return found


def plain_pattern(pattern: str, names: Sequence[str]) -> str:
    """Return a pattern for these names and no other one of the layers, in which nothing can take long.

    Raises:
        PatternError: See `chosen_by`; or it fits none.
    """
    chosen = chosen_by(pattern, names)
    return pattern_of(chosen, names) if chosen else "(?!)"  # which fits nothing


def pattern_of(chosen: Sequence[str], names: Sequence[str]) -> str:
    """Write names as one regular expression, layers of the same kind together where that chooses no other name."""
    escaped = [re.escape(name) for name in chosen]
    shorter = "|".join(dict.fromkeys(re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", name) for name in escaped))
    wanted = set(chosen)
    is_same = all(bool(re.fullmatch(shorter, name)) == (name in wanted) for name in names)
    return shorter if is_same else "|".join(escaped)


def resolved_patterns(values: Mapping[str, Value], names: Sequence[str]) -> dict[str, Value]:
    """Return values by patterns as values by names; patterns that are names already stay.

    Where several patterns fit a name, the first one counts, as for PEFT.

    Raises:
        PatternError: See `chosen_by`; or there are far too many.
    """
    if len(values) > _MOST_PATTERNS:
        raise PatternError(f"has {len(values)} entries, more than {_MOST_PATTERNS}")
    if all(_PLAIN.fullmatch(pattern) for pattern in values):
        return dict(values)
    resolved: dict[str, Value] = {}
    for pattern, value in values.items():
        for name in chosen_by(pattern, names, is_end=True):
            resolved.setdefault(re.escape(name), value)
    return dict(sorted(resolved.items(), key=lambda item: -len(item[0])))  # a name may end with another one
