"""An orderly stop on Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from lorakit import console
from lorakit.engine import Ranks


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """Turns Ctrl-C (and a scheduler's SIGTERM) into: finish the step, save a checkpoint, leave.

    Signals do not reach all processes in the same step, nor all of them at all: after each step they agree.
    """

    def __init__(self) -> None:
        self.is_stopped = False
        self._has_heard = False
        self._ranks = Ranks.of_environment()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals inside this context; a second Ctrl-C interrupts at once."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._has_heard:
            if number == signal.SIGINT:  # a launcher sends SIGTERM after the Ctrl-C that reached everyone
                raise KeyboardInterrupt
            return
        self._has_heard = True
        console.note("\nstopping: this step is finished and a checkpoint saved first (again: stop at once)")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask the Trainer to save and stop, so that what goes on from there is as if it had never stopped.

        A validation that is due at this step is made; what is due at the end of an epoch comes before its checkpoint.
        """
        self.is_stopped = any(self._ranks.collect([self._has_heard]))
        if self.is_stopped:
            control.should_save = control.should_save or not _is_an_end(state)
            control.should_training_stop = True
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Keep the Trainer from taking a stop within an epoch for its end."""
        if self.is_stopped:
            control.should_save = _is_an_end(state)
            control.should_evaluate = control.should_evaluate and _is_an_end(state)
        return control


def _is_an_end(state: Any) -> bool:
    """Tell whether an epoch, or the run, would end here anyway."""
    return float(state.epoch).is_integer() or state.global_step >= state.max_steps
