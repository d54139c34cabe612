"""How much of what a tuned model answers stands word for word in its training answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lorakit.report import AnsweredRow, Memorised

LENGTH = 8  # characters of an n-gram


def ngrams(text: str) -> set[str]:
    """Return a text's stretches of eight characters; a shorter text is one by itself."""
    if not text:
        return set()
    return {text[start : start + LENGTH] for start in range(max(len(text) - LENGTH + 1, 1))}


def memorised(rows: Sequence[AnsweredRow], training_answers: Iterable[str]) -> list[Memorised]:
    """Hold tuned answers against the training answers.

    Args:
        rows: With an answer of ``tuned``.
        training_answers: Read once; only what also stands in ``rows`` is kept, however many there are.
    """
    texts = [text for row in rows for text in (row.answers["tuned"], row.expected)]
    whole = set(texts)
    wanted = set().union(*map(ngrams, texts))
    short = {text for text in wanted if len(text) < LENGTH}
    known: set[str] = set()
    known_whole: set[str] = set()
    for answer in training_answers:
        known |= wanted & ngrams(answer)
        known |= {text for text in short if text in answer}
        known_whole |= whole & {answer}
    return [
        Memorised(
            origin=row.origin,
            answer=row.answers["tuned"],
            share=_share(row.answers["tuned"], known),
            expected_share=_share(row.expected, known),
            is_copied=row.answers["tuned"] != row.expected and row.answers["tuned"] in known_whole,
        )
        for row in rows
    ]


def _share(text: str, known: set[str]) -> float | None:
    own = ngrams(text)
    return len(own & known) / len(own) if own else None
