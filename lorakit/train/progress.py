"""What a person sees while a run is under way: a moving bar in a terminal, a line an epoch everywhere."""

from __future__ import annotations

import time

from lorakit import console
from lorakit.runs import EvaluationRecord, StepRecord


class ShowProgress:
    """Shows loss, speed and remaining time from the records of a run.

    Args:
        bar: The moving bar.
        steps: Of the whole run.
        epochs: Of the whole run.
    """

    def __init__(self, bar: console.ProgressLine, steps: int, epochs: float) -> None:
        self._bar = bar
        self._steps = steps
        self._epochs = epochs
        self._seconds = 0.0
        self._tokens = 0
        self._steps_seen = 0
        self._epoch_losses: list[float] = []

    def step(self, record: StepRecord) -> None:
        """Move the bar."""
        self._seconds += record.step_seconds
        self._tokens += record.tokens
        self._steps_seen += 1
        self._epoch_losses.append(record.loss)
        self._bar.update(record.step, f"loss {record.loss:.3f}  {self._tokens_per_second} tokens/s")

    def epoch(self, step: int, epoch: float, validation: EvaluationRecord | None) -> None:
        """Print the line of a finished epoch (or of a validation in its midst)."""
        remaining = round(self._seconds / max(self._steps_seen, 1) * (self._steps - step))
        mean = sum(self._epoch_losses) / max(len(self._epoch_losses), 1)
        self._epoch_losses = []
        console.note(
            f"epoch {epoch:.4g}/{self._epochs:.4g}  loss {mean:.4f}"
            + (f"  validation loss {validation.loss:.4f}" if validation else "")
            + f"  {self._tokens_per_second} tokens/s  {remaining // 60}:{remaining % 60:02d} left"
        )

    @property
    def _tokens_per_second(self) -> int:
        return round(self._tokens / max(self._seconds, time.get_clock_info("perf_counter").resolution))
