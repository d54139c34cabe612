"""How close answers come to their references, summed row by row so that memory does not grow."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rapidfuzz.distance import LCSseq
from sacrebleu.metrics import BLEU, CHRF

_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002ffff]")
_WORD_OR_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002ffff]|[^\W_\u3400-\u9fff]+")


def is_chinese(text: str) -> bool:
    """Whether a text is written in Chinese: a third of its visible characters or more."""
    visible = sum(not character.isspace() for character in text)
    return visible > 0 and len(_CHINESE.findall(text)) * 3 >= visible


def without_reasoning(answer: str) -> str:
    """Return what follows the reasoning of an answer; answers are compared by that."""
    return answer.rpartition("</think>")[2].strip()


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 from 0 to 1: by character for Chinese, by word elsewhere.

    Source: Lin, 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    given, wanted = (_WORD_OR_CHINESE.findall(text.lower()) for text in (answer, reference))
    if not given or not wanted:
        return 0.0
    return float(2 * LCSseq.similarity(given, wanted) / (len(given) + len(wanted)))


class _CorpusScore:
    """A sacrebleu metric over a corpus that is never held: its statistics are sums over rows."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self._sums: list[int] | None = None

    def add(self, answer: str, reference: str, metric: Any = None) -> None:
        [statistics] = (metric or self._metric)._extract_corpus_statistics([answer], [[reference]])
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

    BLEU (Papineni et al., 2002) and chrF (Popović, 2015) are sacrebleu's, from 0 to 100; BLEU splits Chinese
    references with sacrebleu's ``zh`` tokenizer and others with its ``13a``. Exact match and ROUGE-L go from 0 to 1.
    """

    rows: int = 0
    _exact: int = 0
    _rouge_l: float = 0.0
    _bleu: _CorpusScore = field(default_factory=lambda: _CorpusScore(_bleu("13a")))
    _chrf: _CorpusScore = field(default_factory=lambda: _CorpusScore(_chrf()))

    def add(self, answer: str, reference: str) -> None:
        """Score one answer; the reasoning of either side is left out."""
        answer, reference = without_reasoning(answer), without_reasoning(reference)
        self.rows += 1
        self._exact += answer == reference
        self._rouge_l += rouge_l(answer, reference)
        self._chrf.add(answer, reference)
        self._bleu.add(answer, reference, _bleu("zh" if is_chinese(reference) else "13a"))

    def summary(self) -> dict[str, float]:
        """Return exact_match, chrf, bleu and rouge_l over all rows so far."""
        rows = max(self.rows, 1)
        return {
            "exact_match": self._exact / rows,
            "chrf": self._chrf.value,
            "bleu": self._bleu.value,
            "rouge_l": self._rouge_l / rows,
        }
