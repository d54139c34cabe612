"""How close answers come to their references, summed row by row so that memory does not grow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import regex
from rapidfuzz.distance import LCSseq
from sacrebleu.metrics import BLEU, CHRF

from lorakit.data_processing.reasoning import CLOSING, split_reasoning

# Scripts that do not part words by spaces: their texts are compared character by character, marks with what bears them.
_UNSPACED = r"\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_PIECE = regex.compile(
    rf"[\p{{Han}}{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[\p{{Han}}{_UNSPACED}]]+", regex.VERSION1
)
_GRAPHEME = regex.compile(r"\S\X?", regex.VERSION1)
_SHARE_OF_SCRIPT = 0.05  # of all letters, from which a file is taken to be written in it
_LONGEST_N_GRAM = 4  # of BLEU


def without_reasoning(answer: str) -> str:
    """Return what follows the reasoning of an answer, an empty one too; answers are compared by that."""
    return split_reasoning(answer, is_begun=True)[1].strip().removeprefix(CLOSING).lstrip()


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 from 0 to 1: by word, by character where words are not parted by spaces.

    A reference without a word or number, such as an emoji, is compared sign by sign.

    Source: Lin, 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    pieces = _PIECE if _PIECE.search(reference) else _GRAPHEME
    given, wanted = (pieces.findall(text.lower()) for text in (answer, reference))
    if not given or not wanted:
        return float(given == wanted)
    return float(2 * LCSseq.similarity(given, wanted) / (len(given) + len(wanted)))


def bleu_tokenizer(references: Iterable[str]) -> str:
    """Choose sacrebleu's tokenizer for all rows of a file: ``char``, ``zh`` or ``13a``."""
    letters = han = unspaced = 0
    for text in references:
        letters += len(regex.findall(r"\p{L}", text))
        han += len(regex.findall(r"\p{Han}", text))
        unspaced += len(regex.findall(f"[{_UNSPACED}]", text))
    if unspaced > _SHARE_OF_SCRIPT * letters:
        return "char"
    return "zh" if han > _SHARE_OF_SCRIPT * letters else "13a"


class _CorpusScore:
    """A sacrebleu metric over a corpus that is never held: its statistics are sums over rows."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self._sums: list[int] | None = None

    def add(self, answer: str, reference: str) -> None:
        [statistics] = self._metric._extract_corpus_statistics([answer], [[reference]])
        self._sums = statistics if self._sums is None else [a + b for a, b in zip(self._sums, statistics, strict=True)]

    @property
    def value(self) -> float:
        return float(self._metric._compute_score_from_stats(self._sums).score) if self._sums else 0.0


@cache
def _chrf() -> CHRF:
    return CHRF()


def row_scores(answer: str, reference: str) -> dict[str, float]:
    """Score one answer by itself: exact_match and rouge_l from 0 to 1, chrf from 0 to 100."""
    answer, reference = without_reasoning(answer), without_reasoning(reference)
    return {
        "exact_match": float(answer == reference),
        "chrf": float(_chrf().sentence_score(answer, [reference]).score),
        "rouge_l": rouge_l(answer, reference),
    }


@cache
def _bleu(tokenizer: str) -> BLEU:
    return BLEU(tokenize=tokenizer)


@dataclass
class AnswerScores:
    """Scores of generated answers.

    BLEU (Papineni et al., 2002) and chrF (Popović, 2015) are sacrebleu's, from 0 to 100. BLEU counts runs of four
    words: rows whose reference has fewer are left out of it. Exact match and ROUGE-L go from 0 to 1.

    Attributes:
        tokenizer: How sacrebleu parts the words for BLEU, see `bleu_tokenizer`.
    """

    tokenizer: str = "13a"
    rows: int = 0
    _exact: int = 0
    _rouge_l: float = 0.0
    _bleu_rows: int = 0
    _bleu: _CorpusScore = field(init=False)
    _chrf: _CorpusScore = field(default_factory=lambda: _CorpusScore(_chrf()))

    def __post_init__(self) -> None:
        self._bleu = _CorpusScore(_bleu(self.tokenizer))

    def add(self, answer: str, reference: str) -> None:
        """Score one answer; the reasoning of either side is left out."""
        answer, reference = without_reasoning(answer), without_reasoning(reference)
        self.rows += 1
        self._exact += answer == reference
        self._rouge_l += rouge_l(answer, reference)
        self._chrf.add(answer, reference)
        if len(_bleu(self.tokenizer).tokenizer(reference).split()) >= _LONGEST_N_GRAM:
            self._bleu_rows += 1
            self._bleu.add(answer, reference)

    def summary(self) -> dict[str, float]:
        """Return exact_match, chrf, bleu and rouge_l over all rows so far, and over how many of them BLEU was taken.

        BLEU is no number where there is none.
        """
        rows = max(self.rows, 1)
        return {
            "exact_match": self._exact / rows,
            "chrf": self._chrf.value,
            "bleu": self._bleu.value if self._bleu_rows or not self.rows else math.nan,
            "rouge_l": self._rouge_l / rows,
            "bleu_rows": self._bleu_rows,
        }
