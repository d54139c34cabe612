"""An orderly stop on Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from lorakit import console


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """Turns Ctrl-C (and a scheduler's SIGTERM) into: finish the step, save a checkpoint, leave."""

    def __init__(self) -> None:
        self.is_stopped = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals inside this context; a second one interrupts at once."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.is_stopped:
            raise KeyboardInterrupt
        self.is_stopped = True
        console.note("\nstopping: this step is finished and a checkpoint saved first (again: stop at once)")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask the Trainer to save and stop."""
        if self.is_stopped:
            control.should_save = True
            control.should_training_stop = True
            control.should_evaluate = False
        return control
