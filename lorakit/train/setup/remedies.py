"""What would make a run fit into memory, as settings to copy or to apply."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from lorakit import console
from lorakit.config import Config
from lorakit.engine import MemoryPlan, MemoryPlanner, Ranks
from lorakit.errors import RunError

CHECKPOINTING = {"trainer_args": {"activation_checkpointing": True}}
NOTHING_HELPS = "lower max_length, or choose a smaller model"
_FEWEST_TOKENS = 16  # of max_tokens_per_microbatch


@dataclass(frozen=True)
class Remedy:
    """Settings with which a run would fit.

    Attributes:
        changes: Each setting with its new value.
        peak: Bytes that the run would take; None where that is not known.
    """

    changes: Mapping[str, Any]
    peak: int | None = None

    def __str__(self) -> str:
        assignments = (f"{name}={_value_text(value)}" for name, value in self.changes.items())
        text = " ".join(f"--set {shlex.quote(assignment)}" for assignment in assignments)
        return text if self.peak is None else f"{text} ({self.peak / 1e9:.1f} GB)"


class DoesNotFitError(RunError):
    """Memory ran out though the run was planned to fit.

    Args:
        message: What ran out of it.
        candidates: What takes less, the gentlest first.
        otherwise: The hint where there is nothing of the kind.
    """

    def __init__(self, message: str, candidates: Sequence[Remedy], otherwise: str = NOTHING_HELPS) -> None:
        super().__init__(message, any_of(candidates, otherwise))
        self.candidates = tuple(candidates)


def any_of(remedies: Iterable[Remedy], otherwise: str = NOTHING_HELPS) -> str:
    """Name remedies of which one is enough, or what else there is to do."""
    return " or ".join(map(str, remedies)) or otherwise


def candidates(
    planner: MemoryPlanner,
    memory: MemoryPlan,
    longest: int,
    fewer_bits: Sequence[tuple[Mapping[str, Any], int]],
) -> tuple[Remedy, ...]:
    """List what takes less memory than a plan, the gentlest first; whether it is enough is not looked at.

    Args:
        planner: That made the plan.
        memory: The plan.
        longest: Tokens of the longest row.
        fewer_bits: Settings for smaller weights, and the bytes that they save.
    """
    choices = product(
        [({}, 0), *fewer_bits],
        [{}] if memory.is_checkpointed else [{}, CHECKPOINTING],
        [None, max(longest, _FEWEST_TOKENS)] if memory.tokens > longest else [None],
    )
    found = []
    for (bits, saved), checkpointing, budget in choices:
        smaller = {} if budget is None else {"max_tokens_per_microbatch": budget}
        changes: dict[str, Any] = {**bits, **checkpointing, **smaller}
        tokens = memory.tokens if budget is None else longest
        if changes:
            plan = planner.plan(tokens, memory.is_checkpointed or bool(checkpointing))
            found.append(Remedy(changes, plan.peak - saved))
    return tuple(found)


def fitting(remedies: Sequence[Remedy], available: int) -> tuple[Remedy, ...]:
    """Choose those with which every rank would fit. All ranks must call this, with the same list."""
    fits = [[remedy.peak is not None and remedy.peak <= available for remedy in remedies]]
    by_rank = list(Ranks.of_environment().collect(fits))
    return tuple(remedy for remedy, *on_rank in zip(remedies, *by_rank, strict=True) if all(on_rank))


def applied(config: Config, remedy: Remedy, why: str) -> Config:
    """Return the settings with a remedy, and say what has changed."""
    changes = dict(remedy.changes)
    for name, value in changes.items():
        old = getattr(config, name)
        if isinstance(value, dict):
            changes[name] = {**old, **value}
            old = {key: old.get(key) for key in value}
        console.note(f"auto_fit: {name} is {_value_text(value)}, it was {_value_text(old)}: {why}")
    return config.model_copy(update=changes)


def _value_text(value: Any) -> str:
    """Write a value as ``--set`` takes it."""
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")
