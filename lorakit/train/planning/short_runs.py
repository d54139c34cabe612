"""Short runs from the same start, which share a loaded model: what a learning rate comes to, and which goes on.

Rates are tried with successive halving (Jamieson and Talwalkar, arXiv 1502.07943): all of them for a few steps, the
better ones for twice as many. Between two runs only the adapter is put back to its first values.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorakit import console
from lorakit.data_processing import EncodedExample
from lorakit.errors import RunError
from lorakit.evaluate.comparison import dataset_loss
from lorakit.evaluate.forgetting import BaseAnswers
from lorakit.train.planning.plan import RunPlan
from lorakit.train.setup.preparing import Prepared
from lorakit.train.step import TokenBudget, Trace
from lorakit.train.trainer import LoraTrainer

_FIRST_SHARE = 0.04  # of a run's steps; all rungs together cost 0.04 * 3 + 0.08 * 2 = 0.28 of one run
_FEWEST_STEPS = 8
_KEPT = 2  # in the second rung
_DIGITS = 2


@dataclass(frozen=True)
class Tried:
    """One short run.

    Attributes:
        rate: Peak learning rate.
        steps: That it was trained.
        loss: On the held-out rows after them, in nats a target token.
        forgotten: By how much the base's answers to general questions are less likely after them, in nats a token;
            None where these were not asked.
    """

    rate: float
    steps: int
    loss: float
    forgotten: float | None = None


class ShortRuns:
    """Runs that share a model.

    Args:
        prepared: With rows to validate on; its adapter is new.
        plan: How it computes.
        general: What the base answers to general questions, to see what is forgotten; None to leave that out.
    """

    def __init__(self, prepared: Prepared, plan: RunPlan, general: BaseAnswers | None = None) -> None:
        assert prepared.data.validation is not None
        self._prepared = prepared
        self._plan = plan
        self._general = general
        self._held_out = prepared.data.validation.encoded
        self._start = {
            name: value.detach().clone()
            for name, value in prepared.bundle.model.named_parameters()
            if value.requires_grad
        }

    def begin_again(self) -> None:
        """Put the adapter back to its first values."""
        with torch.no_grad():
            for name, value in self._prepared.bundle.model.named_parameters():
                if name in self._start:
                    value.copy_(self._start[name])

    def loss_after(self, rate: float, steps: int, validates: bool = False) -> float:
        """Train from the start.

        Args:
            rate: Peak learning rate.
            steps: How many.
            validates: Validate after every epoch too.

        Returns:
            The loss on the held-out rows after the last step, in nats a target token; the lowest of all validations
            where there are some. Infinity where an alarm has ended the run, as with a rate that is far too high.
        """
        model, device = self._prepared.bundle.model, self._prepared.bundle.device
        self.begin_again()
        with tempfile.TemporaryDirectory() as aside:
            trainer = self._trainer(aside, rate, steps, validates)
            try:
                trainer.train()
            except RunError as error:
                console.detail(f"learning_rate {rate:g}: {error.message}")
                model.zero_grad(set_to_none=True)
                return math.inf
        if validates and trainer.state.best_metric is not None:
            return float(trainer.state.best_metric)
        loss = dataset_loss(model, self._held_out, device).mean
        return loss if math.isfinite(loss) else math.inf

    def forgotten(self) -> float | None:
        """Return what the run that was just trained has forgotten; see `Tried`."""
        bundle = self._prepared.bundle
        return self._general.forgotten(bundle.model, bundle.device) if self._general else None

    def _trainer(self, folder: str, rate: float, steps: int, validates: bool) -> LoraTrainer:
        arguments = dataclasses.replace(
            self._prepared.arguments,
            output_dir=folder,
            learning_rate=rate,
            max_steps=steps,
            save_strategy="no",
            eval_strategy="epoch" if validates else "no",
            load_best_model_at_end=False,
            metric_for_best_model="eval_loss" if validates else None,
            greater_is_better=False if validates else None,
        )
        arguments._n_gpu = self._prepared.arguments._n_gpu
        sequences: Sequence[EncodedExample] = self._prepared.data.train.encoded
        return LoraTrainer(
            model=self._prepared.bundle.model,
            args=arguments,
            train_sequences=sequences,
            budget=TokenBudget(self._plan.record, 0, 0),
            validation_sequences=self._held_out if validates else None,
            trace=Trace("advice", None, console.detail),
            callbacks=[],
        )


def halved(runs: ShortRuns, rates: Sequence[float], steps: int) -> list[Tried]:
    """Try all rates briefly, then the better ones for twice as long.

    Args:
        runs: The model that they share.
        rates: All different.
        steps: Of a whole run.
    """
    brief = min(max(round(steps * _FIRST_SHARE), _FEWEST_STEPS), steps)
    rungs = ((brief, len(rates)), (min(2 * brief, steps), _KEPT))
    tried: list[Tried] = []
    left = list(rates)
    for length, kept in rungs:
        before = {one.rate: one.loss for one in tried}
        left = sorted(left, key=lambda rate: before.get(rate, 0.0))[:kept]
        for rate in left:
            with console.progress(None, f"trying learning_rate {rate:g} for {length} steps"):
                tried.append(Tried(rate, length, runs.loss_after(rate, length), runs.forgotten()))
    return tried


def best_of(tried: Sequence[Tried]) -> Tried:
    """Return the one of the lowest loss among those that were trained longest.

    Raises:
        RunError: None of them has one.
    """
    longest = max(one.steps for one in tried)
    best = min((one for one in tried if one.steps == longest), key=lambda one: one.loss)
    if not math.isfinite(best.loss):
        raise RunError(
            "no learning_rate that was tried gave a loss on the held-out rows",
            "set a lower learning_rate to try others around it, or torch_dtype: float32",
        )
    return best


def rate_for(best: Tried, steps: int) -> float:
    """Return the rate for a whole run, from the best one of short runs.

    With linear decay the best rate falls with the square root of the number of steps (Defazio and others, arXiv
    2310.07831); that of a few steps is too high for many.

    Args:
        best: Of the short runs.
        steps: Of the whole run.
    """
    return float(f"{best.rate * math.sqrt(min(best.steps / steps, 1)):.{_DIGITS}g}")
