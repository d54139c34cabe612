"""What an evaluation has found, in one sentence for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# chrF, which goes from 0 to 100, moves by about so much from one seed to another.
_LEAST_CHRF = 1.0


def verdict(scores: Mapping[str, Mapping[str, Any]], is_trained_on: bool) -> str:
    """Say whether the tuned model is better than its base.

    Args:
        scores: For ``base`` and ``tuned``; see `Comparison`.
        is_trained_on: Whether the rows that were answered are training rows.
    """
    base, tuned = scores["base"], scores.get("tuned")
    rows = base["generated_rows"]
    if rows == 0:
        return "no row could be answered, so there is nothing to compare"
    if tuned is None:
        return f"the base answers {_count(_exact(base))} of {rows} word for word"
    sentence = f"{_judgement(base, tuned)}: {_evidence(base, tuned)}"
    return f"{sentence} (asked of training rows, which shows what was learnt, not more)" if is_trained_on else sentence


def _judgement(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    """Answers count before the loss: it may rise while they become better."""
    by_words = _exact(tuned) - _exact(base)
    by_likeness = tuned["chrf"] - base["chrf"]
    by_loss = base["loss"] - tuned["loss"]
    if by_words > 0 or (by_words == 0 and by_likeness > _LEAST_CHRF and by_loss > 0):
        return "better than the base"
    if by_words < 0 or (by_likeness < -_LEAST_CHRF and by_loss <= 0):
        return "worse than the base"
    if by_likeness > _LEAST_CHRF or by_loss > 0:
        return "hardly better than the base"
    return "no better than the base"


def _evidence(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    rows = base["generated_rows"]
    if _exact(base) or _exact(tuned):
        return f"{_exact(tuned)} of {rows} answers word for word, base {_count(_exact(base))}"
    return (
        f"none of {rows} answers word for word, their likeness to the expected ones {tuned['chrf']:.0f} of 100, "
        f"base {base['chrf']:.0f}"
    )


def _exact(scores: Mapping[str, Any]) -> int:
    exact: float = scores["exact_match"] * scores["generated_rows"]
    return round(exact)


def _count(number: int) -> str:
    return str(number) if number else "none"
