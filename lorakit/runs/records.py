"""events.jsonl: a line for the plan, every optimizer step and every evaluation. Curve and reports read only this."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, ClassVar

from lorakit.errors import RunError
from lorakit.incoming import leads_out, open_file
from lorakit.outgoing import strict_json
from lorakit.runs.names import EVENTS_FILE
from lorakit.runs.storage import make_durable, write_text

_MOST_BYTES = 300_000_000  # a million steps, read in ten seconds
_MOST_OF_A_STEP = 30  # records: itself, an evaluation, a plan for each halving of the budget and each resuming
_WITHOUT_IT = "train without resume: the file is then moved aside"
_PARTS = "planned_parts"  # the one field that is not a number


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step.

    Attributes:
        step: Counted from 1.
        epoch: Passes over the data when the step was done.
        loss: Nats per target token, the mean over the step's target tokens.
        learning_rate: The one this step was taken with.
        grad_norm: Euclidean norm of the gradient before clipping.
        rows: Sequences in the step, all devices together.
        tokens: Their tokens.
        target_tokens: The tokens among them that carry loss.
        step_seconds: Wall time since the end of the step before (evaluations and checkpoints left out).
    """

    event: ClassVar[str] = "step"
    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    rows: int
    tokens: int
    target_tokens: int
    step_seconds: float


@dataclass(frozen=True)
class EvaluationRecord:
    """One validation pass during training; ``loss`` is in nats per target token."""

    event: ClassVar[str] = "evaluation"
    step: int
    epoch: float
    loss: float
    rows: int
    target_tokens: int
    evaluation_seconds: float


@dataclass(frozen=True)
class PlanRecord:
    """What was decided before the first step, or at a later one; a resumed run keeps it.

    Attributes:
        step: 0 before the first, else the step that memory did not suffice for.
        max_tokens: In one forward and backward pass.
        is_checkpointed: Whether activations are computed anew in the backward pass.
        is_compiled: Whether the decoder layers are compiled.
        planned_bytes: Expected at the peak.
        planned_parts: The same by purpose.
    """

    event: ClassVar[str] = "plan"
    step: int
    max_tokens: int
    is_checkpointed: bool
    is_compiled: bool
    planned_bytes: int
    planned_parts: dict[str, int]


@dataclass(frozen=True)
class MemoryRecord:
    """The memory that the training took at its peak, in bytes; on a CPU, of the whole process."""

    event: ClassVar[str] = "memory"
    step: int
    peak_bytes: int


Record = StepRecord | EvaluationRecord | PlanRecord | MemoryRecord
_KINDS: dict[str, type[Record]] = {
    kind.event: kind for kind in (StepRecord, EvaluationRecord, PlanRecord, MemoryRecord)
}
# Written as null is what was no finite number (a gradient that overflowed in float16); read, it is NaN.
_FLOATS = {kind: [field.name for field in fields_of(kind) if field.type == "float"] for kind in _KINDS.values()}


class RecordLog:
    """Appends records to a run's events.jsonl.

    Args:
        folder: Of the run.
        after_step: Keep the records up to this step (0: none), as a resumed run will write the later ones anew.

    Raises:
        RunError: A line is no record, or there are more of them than a run of so many steps leaves.
    """

    def __init__(self, folder: Path, after_step: int = 0) -> None:
        self._file = folder / EVENTS_FILE
        kept = []
        for record in read_records(folder):
            kept += [record] if record.step <= after_step else []
            if len(kept) > _MOST_OF_A_STEP * (after_step + _MOST_OF_A_STEP):
                raise RunError(f"{self._file}: has more records than {after_step} steps leave", _WITHOUT_IT)
        write_text(self._file, "".join(_line(record) for record in kept))

    def append(self, record: Record) -> None:
        """Write one line, and hand it to the operating system at once."""
        with open(self._file, "a", encoding="utf-8") as stream:
            stream.write(_line(record))

    def make_durable(self) -> None:
        """Have all lines written to the disk itself, as a checkpoint is."""
        make_durable(self._file)


def read_records(folder: Path) -> Iterator[Record]:
    """Read a run's records; a last line cut off by a crash is left out.

    Raises:
        RunError: A whole line is none of them.
    """
    file = folder / EVENTS_FILE
    if not file.is_file() or leads_out(file):
        return
    with open_file(file, _MOST_BYTES) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                fields = json.loads(line.decode("utf-8", "replace"))
            except ValueError:
                continue
            except RecursionError:
                fields = None
            yield _record(fields, f"{file} line {number}")


def _record(fields: Any, place: str) -> Record:
    try:
        kind = _KINDS[fields.pop("event")]
        fields |= {name: math.nan for name in _FLOATS[kind] if fields.get(name, 0) is None}
        record = kind(**fields)
    except (AttributeError, KeyError, TypeError):
        record = None
    if record is None or not all(_is_value(name, value) for name, value in fields.items()):
        raise RunError(
            f"{place}: is no record of a run",
            f"take that line out, or {_WITHOUT_IT}",
        )
    return record


def _is_value(name: str, value: Any) -> bool:
    if name == _PARTS:
        return isinstance(value, dict) and all(map(_is_number, value.values()))
    return _is_number(value)


def _is_number(value: Any) -> bool:
    """Tell a number that fits a machine's own, true and false among them; JSON's may have thousands of digits."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _line(record: Record) -> str:
    return strict_json({"event": record.event, **vars(record)}) + "\n"
