"""Whether weights in 8 bits gave the same greedy answers: found out once for a base with its adapter, and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lorakit.incoming import read_json
from lorakit.model_config import AdapterChoice, ModelSource, weights_hash
from lorakit.runs import cache_folder, write_json

_HOW = "prompts and answers in 8 bits"  # what was found out


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        rows: Questions that were answered with both.
        equal: Of them with the same answer, token by token.
    """

    rows: int
    equal: int

    @property
    def is_same(self) -> bool:
        """Whether all answers were the same."""
        return 0 < self.rows == self.equal

    def __str__(self) -> str:
        return f"{self.equal} of {self.rows} greedy answers were the same"


def verdict_key(source: ModelSource, adapters: Sequence[AdapterChoice]) -> str:
    """Name a base with adapters in use: by the numbers of both, wherever they lie."""
    parts = sorted(f"{weights_hash(choice.folder)} {choice.weight!r}" for choice in adapters)
    return hashlib.sha256("\n".join([_HOW, source.fingerprint(), *parts]).encode()).hexdigest()


def read_verdict(key: str) -> Verdict | None:
    """Return what was found earlier; None where nothing was, or the note is damaged."""
    try:
        found = read_json(_file(key))
        return Verdict(int(found["rows"]), int(found["equal"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_verdict(key: str, verdict: Verdict) -> None:
    """Keep what was found; where the cache cannot be written, it will be found out again."""
    try:
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(key), asdict(verdict))
    except OSError:
        return


def _file(key: str) -> Path:
    return cache_folder() / "int8-verdicts" / f"{key}.json"
