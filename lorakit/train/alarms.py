"""Alarms: what a run looks at while it trains, so that it cannot fail in silence. The rules stand in docs/trust.md."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from lorakit import console
from lorakit.engine import MicroBatch, summed_loss
from lorakit.errors import RunError
from lorakit.runs import EvaluationRecord, StepRecord

PROVING_STEPS = 3  # after so many with a learning rate above zero the adapter must have moved
_FIRST_LOSS_MARGIN_NATS = 2.0  # above ln(vocabulary), which is the loss of guessing
_RECENT_STEPS = 20
_FEWEST_RECENT_STEPS = 10
_LOSS_SPIKE_NATS = 1.0  # above twice the recent median
_NORM_SPIKE = 20.0  # times the recent median
_RATE_SPIKE = 10.0  # times the step before
_RISES = 3
_WORRYING_RISE = 1.25  # times the best: a held-out loss that creeps up a little is usual, and answers still improve
_LEARN_MORE = "raise learning_rate or num_train_epochs; the last checkpoint is kept"
_MOST_SKIPPED_STEPS = 10  # with float16 a step whose scaled gradient overflows is left out, and the scale lowered


class Alarms:
    """Watches the records of a run; warns once for each rule, or ends the run.

    Args:
        vocabulary: Tokens of the model.
        lora_b: Returns the trained second matrices, zero at the beginning of a new adapter.
        warn: Where warnings go.
        keeps_best: Whether the adapter of the best validation loss is kept.
    """

    def __init__(
        self,
        vocabulary: int,
        lora_b: Callable[[], Sequence[torch.Tensor]],
        warn: Callable[[str], None] = console.warn,
        keeps_best: bool = False,
    ) -> None:
        self._guessing_nats = math.log(vocabulary)
        self._lora_b = lora_b
        self._warn = warn
        self._validation_advice = (
            "the best adapter is the one that is kept; fewer epochs take less time"
            if keeps_best
            else "set early_stopping_patience, or load_best_model, or fewer epochs"
        )
        self._warned: set[str] = set()
        self._losses: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._norms: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._moving_steps = 0
        self._skipped_steps = 0
        self._rate = 0.0
        self._validation: list[float] = []

    def step(self, record: StepRecord, origins: Callable[[], str], is_scaled: bool = False) -> None:
        """Look at a step that was just taken.

        Args:
            record: Of the step.
            origins: Names its rows.
            is_scaled: Whether the loss is scaled for float16, where single steps may overflow.

        Raises:
            RunError: The gradient is not finite or exactly zero, or the adapter does not move.
        """
        self._check_gradient(record, origins, is_scaled)
        if record.learning_rate > 0:
            self._moving_steps += 1
        if self._moving_steps == PROVING_STEPS and _are_zero(self._lora_b()):
            raise RunError(
                f"step {record.step}: every lora_B is still zero, so the adapter changes nothing",
                "raise learning_rate, and check target_modules and trainer_args",
            )
        if record.step == 1 and record.loss > self._guessing_nats + _FIRST_LOSS_MARGIN_NATS:
            self._once(
                "first loss",
                f"the first loss is {record.loss:.2f}, where guessing would give {self._guessing_nats:.2f}: the chat "
                "template or the weights may not belong to this model; look at `--task preview`",
            )
        self._check_spikes(record)
        self._losses.append(record.loss)
        self._norms.append(record.grad_norm)
        self._rate = record.learning_rate

    def _check_gradient(self, record: StepRecord, origins: Callable[[], str], is_scaled: bool) -> None:
        if not math.isfinite(record.grad_norm):
            self._skipped_steps += 1
            if not is_scaled or self._skipped_steps > _MOST_SKIPPED_STEPS:
                raise RunError(
                    f"step {record.step}: the gradient is not finite, on {origins()}",
                    "lower learning_rate, or set torch_dtype: float32; the last checkpoint is intact",
                )
            return
        self._skipped_steps = 0
        if record.grad_norm == 0.0 and self._moving_steps < PROVING_STEPS:
            raise RunError(
                f"step {record.step}: the gradient is exactly zero, so nothing is learnt",
                "check target_modules, and that learning does not start from an adapter that is frozen",
            )
        if record.grad_norm == 0.0:
            self._once("zero", f"step {record.step}: the gradient is exactly zero, on {origins()}")

    def _check_spikes(self, record: StepRecord) -> None:
        advice = "a lower learning_rate, or more warmup_steps in trainer_args, would be safer"
        if self._rate > 0 and record.learning_rate > _RATE_SPIKE * self._rate:
            self._once(
                "rate", f"step {record.step}: the learning rate jumped from {self._rate:g} to {record.learning_rate:g}"
            )
        if len(self._losses) < _FEWEST_RECENT_STEPS:
            return
        loss, norm = statistics.median(self._losses), statistics.median(self._norms)
        if record.loss > 2 * loss + _LOSS_SPIKE_NATS:
            self._once(
                "loss", f"step {record.step}: the loss jumped from about {loss:.2f} to {record.loss:.2f}; {advice}"
            )
        elif record.grad_norm > _NORM_SPIKE * norm and record.loss > loss:
            self._once(
                "norm", f"step {record.step}: the gradient norm is {record.grad_norm:.2g}, usually {norm:.2g}; {advice}"
            )

    def evaluation(self, record: EvaluationRecord) -> None:
        """Look at a validation loss."""
        self._validation.append(record.loss)
        last = self._validation[-_RISES - 1 :]
        has_risen = len(last) > _RISES and all(later > earlier for earlier, later in pairwise(last))
        if has_risen and record.loss > _WORRYING_RISE * min(self._validation):
            self._once(
                "validation",
                f"the validation loss has risen {_RISES} times in a row, to {record.loss:.3f} from "
                f"{min(self._validation):.3f} at its best: the adapter learns the rows by heart; "
                f"{self._validation_advice}",
            )

    def _once(self, rule: str, text: str) -> None:
        if rule not in self._warned:
            self._warned.add(rule)
            self._warn(text)


def _are_zero(tensors: Sequence[torch.Tensor]) -> bool:
    return bool(tensors) and not any(bool(tensor.any()) for tensor in tensors)


def second_matrices(model: Any) -> list[torch.Tensor]:
    """Return every trained lora_B of a model; none of a sharded one, which has its values in parts."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if "lora_B" in name and parameter.requires_grad and not hasattr(parameter, "full_tensor")
    ]


def check_has_learnt(trained: Mapping[str, torch.Tensor]) -> None:
    """Refuse an adapter that is as it was at the beginning.

    Raises:
        RunError: Every lora_B is zero.
    """
    if _are_zero([parameter for name, parameter in trained.items() if "lora_B" in name]):
        raise RunError("training has left every lora_B at zero: the adapter would change nothing", _LEARN_MORE)


def check_makes_a_difference(model: Any, rows: Iterable[MicroBatch]) -> None:
    """Refuse an adapter with which every one of these rows has the very loss that it has without.

    Raises:
        RunError: It changes nothing.
    """
    if not any(_makes_a_difference(model, row) for row in rows):
        raise RunError(
            "after training the model answers exactly as its base does: the adapter changes nothing", _LEARN_MORE
        )


def _makes_a_difference(model: Any, row: MicroBatch) -> bool:
    with torch.no_grad():
        tuned = summed_loss(model, row)
        with model.disable_adapter():
            base = summed_loss(model, row)
    return not torch.equal(tuned, base)
