"""A callback of transformers' Trainer that writes every step of a peer as lorakit writes its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from encoding import IGNORED_LABEL
from spec import EVENTS_FILE
from transformers import TrainerCallback


class Counter:
    """Counts rows and their target tokens as batches are made of them."""

    def __init__(self) -> None:
        self._rows = self._target_tokens = 0

    def add(self, rows: int, target_tokens: int) -> None:
        """Count a batch."""
        self._rows += rows
        self._target_tokens += target_tokens

    def take(self) -> dict[str, int]:
        """Return what was counted since the last call."""
        taken = {"rows": self._rows, "target_tokens": self._target_tokens}
        self._rows = self._target_tokens = 0
        return taken


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Appends a line for the data and one for every optimizer step.

    A step lasts from the end of the step before, the first one from the beginning of training; fetching and padding
    the batch is part of it.

    Args:
        folder: Where the events file is written.
        counter: Of the batches, where the data itself does not show its labels.
    """

    def __init__(self, folder: str, counter: Counter | None = None) -> None:
        self._counter = counter
        self._file = Path(folder) / EVENTS_FILE
        self._step_started = 0.0
        self._step_seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Count what will be trained, then start the clock."""
        if self._counter is None:
            dataset = given["train_dataloader"].dataset
            labels = [label for row in dataset for label in row["labels"]]
            rows = sum(len(row["seq_lengths"]) if "seq_lengths" in row else 1 for row in dataset)
            targets = sum(label != IGNORED_LABEL for label in labels)
            self._append({"event": "data", "rows": rows, "target_tokens": targets})
        self._step_started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take the time; loss and gradient norm come with the log line right after."""
        now = time.perf_counter()
        self._step_seconds, self._step_started = now - self._step_started, now

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **given: Any) -> None:
        """Write the step."""
        if logs is None or "loss" not in logs:
            return  # the summary at the end
        self._append(
            {
                "event": "step",
                "step": state.global_step,
                "loss": float(logs["loss"]),
                "grad_norm": float(logs.get("grad_norm", 0.0)),
                "step_seconds": self._step_seconds,
                **(self._counter.take() if self._counter else {}),
            }
        )

    def _append(self, record: dict[str, Any]) -> None:
        with open(self._file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
