"""A checkpoint's ``trainer_state.json``, held to what it can be before transformers reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from lorakit.incoming import read_json
from lorakit.runs import step_of

STATE_FILE = "trainer_state.json"  # transformers' name
_MOST_BYTES = 100_000_000  # a line for each step of a long run


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_callback_state(value: Any) -> bool:
    """Tell whether each callback's state is plain values by name."""
    states = value.values() if isinstance(value, dict) else [None]
    listed = [state for item in states for state in (item if isinstance(item, list) else [item])]
    return all(
        isinstance(state, dict)
        and all(isinstance(part, dict) and all(map(_is_plain, part.values())) for part in state.values())
        and set(state) <= {"args", "attributes"}
        for state in listed
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "global_step": (_is_whole, "a whole number"),
    "max_steps": (_is_whole, "a whole number"),
    "epoch": (_is_number, "a number"),
    "num_train_epochs": (_is_number, "a number"),
    "logging_steps": (_is_number, "a number"),
    "eval_steps": (_is_number, "a number"),
    "save_steps": (_is_number, "a number"),
    "best_metric": (_is_number, "a number"),
    "best_global_step": (_is_whole, "a whole number"),
    "best_model_checkpoint": (lambda value: isinstance(value, str) and "\0" not in value, "a path"),
    "train_batch_size": (_is_whole, "a whole number"),
    "num_input_tokens_seen": (_is_number, "a number"),
    "total_flos": (_is_number, "a number"),
    "log_history": (_is_list_of_objects, "a list of records"),
    "stateful_callbacks": (_is_callback_state, "values by callback"),
}


def fault_of_state(checkpoint: Path) -> str | None:
    """Say why transformers could not go on from a checkpoint's state; None where it can."""
    try:
        return next(_faults(checkpoint), None)
    except (OSError, ValueError) as error:
        return f"{STATE_FILE} cannot be read ({type(error).__name__})"


def _faults(checkpoint: Path) -> Iterator[str]:
    from transformers import TrainerState

    file = checkpoint / STATE_FILE
    state = read_json(file, _MOST_BYTES)
    if not isinstance(state, dict):
        yield f"{STATE_FILE} is no object"
        return
    known = {field.name: field.default for field in fields(TrainerState)}
    for name, value in state.items():
        if name not in known:
            yield f"{STATE_FILE}: {name[:80]!r} is unknown"
        fits, words = _KINDS.get(name, (None, ""))
        if fits and not fits(value) and not (value is None and known[name] in (None, MISSING)):
            yield f"{STATE_FILE}: its {name} is not {words}"
    if state.get("global_step") != step_of(checkpoint):
        yield f"{STATE_FILE} is of another step"
