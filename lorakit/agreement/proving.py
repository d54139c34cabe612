"""The engine proves itself on a model: loss and gradients of short rows against the model's own code, row by row.

What fails is switched off until the rest agrees. A model whose own code lets later tokens change earlier ones, or
cannot be trained or asked at all, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from lorakit.agreement.checks import NEW_TOKENS, answers_off, causality_off, engine_off, engine_result, plain_result
from lorakit.agreement.rows import trial_rows
from lorakit.agreement.twins import NotTriedError, Twins, twins_of
from lorakit.engine import ALL, NONE, Pieces, is_out_of_memory

# Rounding errors of a few thousand terms, grown on their way through the layers of a slice: of float32 3e-4. A window,
# a factor or a mask that is missing changes a gradient by a hundredth of itself at least.
_ROUNDINGS = 5000
_MOST_TOLERATED = 0.1  # in formats of few digits
_ORDER = ("linears", "kept_logits", "loss", "attention", "layers", "packing", "beginning")
_NEEDS = {"loss": "kept_logits", "attention": "kept_logits", "layers": "kept_logits", "packing": "kept_logits"}
_NEEDS |= {"beginning": "packing"}
_DYNAMIC_ANGLES = frozenset({"dynamic", "longrope"})


@dataclass(frozen=True)
class Agreement:
    """What was found out about a model.

    Attributes:
        pieces: What may stand in for its own code.
        off: How far the engine is from it with these pieces, as a part of the furthest gradient.
        refusal: Why it can be neither trained nor asked; None where it can.
        faults: By the names of pieces that are switched off: what happened with them.
        format_fault: What goes wrong in the number format of the run, where all is well in float32; None for nothing.
    """

    pieces: Pieces = ALL
    off: float = 0.0
    refusal: str | None = None
    faults: dict[str, str] = field(default_factory=dict)
    format_fault: str | None = None


def prove(model: Any, dtype: torch.dtype = torch.float32) -> Agreement:
    """Find the pieces that serve a model.

    Args:
        model: As transformers has loaded it, without an adapter; is not changed.
        dtype: In which it will compute.
    """
    most = positions_alike(model)
    try:
        twins = twins_of(model)
        rows = trial_rows(twins.reference.get_base_model().config, twins.tokens)
        proof = _Proof(twins, rows, most)
        found = proof.agreement()
        if found.refusal is None and dtype is not torch.float32:
            return replace(found, format_fault=proof.format_fault(found.pieces, dtype))
        return found
    except NotTriedError as error:
        return Agreement(NONE, refusal=str(error))


def positions_alike(model: Any) -> int | None:
    """Return up to how many tokens the angles of positions do not depend on the longest row; None for any number."""
    limits = []
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        named = kinds.items() if isinstance(kinds, dict) else [(None, kinds)]
        for layer_type, kind in named:
            if kind in _DYNAMIC_ANGLES:
                settings = module.config.rope_parameters
                settings = settings.get(layer_type, settings) if layer_type else settings
                most = settings.get("original_max_position_embeddings") or module.original_max_seq_len
                limits.append(most - (kind == "dynamic"))  # whose angles return to the usual ones only below it
    return min(limits, default=None)


class _Proof:
    def __init__(self, twins: Twins, rows: tuple[list[int], list[int]], most_positions: int | None) -> None:
        self._twins = twins
        self._rows = rows
        self._most_positions = most_positions
        self._tolerance = min(_ROUNDINGS * twins.unit_roundoff, _MOST_TOLERATED)
        self._faults: dict[str, str] = {}

    def agreement(self) -> Agreement:
        reference, rows = self._twins.reference, self._rows
        self._wanted, fault = _tried(lambda: plain_result(reference, rows))
        if self._wanted is None:
            return self._refused(f"its own code fails: {fault}")
        if not self._wanted.is_sound:
            return self._refused("its own code gives losses or gradients that are not finite, or nothing learns")
        again = self._wanted.off(plain_result(reference, rows))
        if again > self._tolerance:
            return self._refused("its own code gives another result every time")
        off = causality_off(reference, self._alike(0)[1])
        if off > self._tolerance:
            return self._refused(
                f"a later token changes what is computed for those before it (by {off:.0%}), so it is no causal "
                "language model: it would see the answers that it is to learn"
            )
        pieces, off = self._found()
        pieces, fault = self._with_answers(replace(pieces, unheard=self._wanted.unheard()))
        if fault is not None:
            return self._refused(fault)
        return Agreement(pieces, off, faults={name: self._faults.get(name, "") for name in pieces.missing})

    def format_fault(self, pieces: Pieces, dtype: torch.dtype) -> str | None:
        """Compute once more as the run will, by the model's own code and by the pieces found; say what goes wrong.

        How far the results lie apart is not asked: that is for float32 to say. The twins keep the format.
        """
        self._twins.round_to(dtype)
        # Copied before anything runs: some families keep what they computed, with its graph, which cannot be copied.
        served, asked = self._twins.engine(pieces), self._twins.engine(pieces)
        is_shared = pieces.packing and pieces.beginning
        whats = {
            "its own code": lambda: plain_result(self._twins.reference, self._rows[:1]).is_sound,
            "training": lambda: engine_result(served, self._rows, is_shared).is_sound,
            "answering": lambda: math.isfinite(self._answers_off(pieces, asked)),
        }
        for what, is_sound in whats.items():
            found, fault = _tried(is_sound)
            if not found:
                return f"{what} fails: {fault}" if fault else f"{what} gives numbers that are not finite"
        return None

    def _refused(self, reason: str) -> Agreement:
        return Agreement(NONE, refusal=reason)

    def _found(self) -> tuple[Pieces, float]:
        """Take all pieces where all agree; else one after the other, as long as what is computed agrees."""
        off = self._off(self._limited(ALL))
        if off <= self._tolerance:
            return self._limited(ALL), off
        found, least = self._limited(NONE), 0.0
        for name in _ORDER:
            if not getattr(found, _NEEDS.get(name, name), True) and name in _NEEDS:
                self._faults[name] = self._faults.get(_NEEDS[name], "")
                continue
            candidate = found.having(name)
            off = self._off(candidate, name)
            if off <= self._tolerance:
                found, least = candidate, off
        return found, least

    def _limited(self, pieces: Pieces) -> Pieces:
        return pieces.up_to(self._most_positions)

    def _off(self, pieces: Pieces, name: str = "") -> float:
        off, fault = _tried(lambda: engine_off(self._twins.engine(pieces), self._rows, pieces, self._wanted))
        if off is None or off > self._tolerance:
            self._faults[name] = fault or f"gradients differ by {off:.1%}"
        return math.inf if off is None else off

    def _with_answers(self, pieces: Pieces) -> tuple[Pieces, str | None]:
        """Find how answers may be written: together and with what is known kept, if need be without."""
        candidates = [pieces.without(), pieces.without("together"), pieces.without("together", "cached")]
        if pieces.attention:
            candidates[1:1] = [pieces.without("attention")]
        for candidate in candidates:
            off, fault = _tried(partial(self._answers_off, candidate))
            if off is not None and off <= self._tolerance:
                return candidate, None
            name = next((name for name in candidate.missing if name not in pieces.missing), "together")
            self._faults.setdefault("together", fault or f"logits differ by {off:.1%}")
            self._faults.setdefault(name, fault or f"logits differ by {off:.1%}")
        return pieces, f"its answers are not what it computes of whole rows: {self._faults['together']}"

    def _answers_off(self, pieces: Pieces, served: Any = None) -> float:
        model = (served or self._twins.engine(pieces)).get_base_model()
        return answers_off(model, self._twins.reference, self._alike(NEW_TOKENS), pieces.together, pieces.cached)

    def _alike(self, later: int) -> list[list[int]]:
        """Return the rows, cut where more tokens would change the angles of those before them.

        Args:
            later: How many tokens will follow.
        """
        most = self._most_positions
        return [row[: None if most is None else max(most - later, 2)] for row in self._rows]


def _tried(compute: Callable[[], Any]) -> tuple[Any, str | None]:
    """Compute; return None and why, where a model's code or a library fails, in whatever way."""
    try:
        return compute(), None
    except Exception as error:
        if is_out_of_memory(error):
            raise
        lines = str(error).strip().splitlines()
        return None, f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
