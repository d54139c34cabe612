"""A run made to fit: planned, tried, and with ``auto_fit`` changed until it does."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lorakit import console
from lorakit.config import Config
from lorakit.engine import Ranks
from lorakit.inference import assistant_for
from lorakit.train.checkpoints.resuming import EarlierRun
from lorakit.train.planning.plan import RunPlan, plan_run
from lorakit.train.planning.trial import Effort, Trial, leaving_no_trace, try_out
from lorakit.train.setup.preparing import Prepared, gather, prepare
from lorakit.train.setup.remedies import CHECKPOINTING, DoesNotFitError, Remedy, any_of, applied
from lorakit.train.setup.replay import answers_of_base, read_replayed, stand_ins

# What a trial may cost of a training; a short one shows its faults soon by itself. Shares are counted in tokens, as a
# busy machine can make the estimate of the time ten times too long.
_LONG_SECONDS = 1800
_SHARE_OF_LONG_RUN = 0.05
SHARE_OF_SHORT_RUN = 0.01
_ALWAYS_SECONDS = 0.5


@dataclass(frozen=True)
class Settled:
    """A run that is ready to begin: what it needs, what it decided, and what was tried."""

    prepared: Prepared
    plan: RunPlan
    trial: Trial


def effort_before_training(plan: RunPlan) -> Effort:
    """Return what a training spends on its trial."""
    share = _SHARE_OF_LONG_RUN if plan.seconds >= _LONG_SECONDS else SHARE_OF_SHORT_RUN
    return Effort(tokens=share * plan.tokens_to_train, seconds=_ALWAYS_SECONDS)


def settle(
    config: Config, earlier: EarlierRun | None, effort: Callable[[RunPlan], Effort], asks: bool = True
) -> Settled:
    """Load a run, decide how it computes, and try it out.

    Args:
        config: Of the run.
        earlier: The run that it resumes, whose decisions it keeps; None for a new run.
        effort: From the plan to how much is tried.
        asks: Let the base answer the general questions whose answers are trained too; else these are taken to be as
            long as they may be.

    Raises:
        LorakitError: Something in the settings, the rows or the model is wrong, or it does not fit into memory.
    """
    gathered = gather(config, earlier)
    while True:
        prepared = _with_replay(prepare(config, gathered), gathered.general_questions, earlier, asks)
        outcome = _attempt(prepared, earlier, effort)
        del prepared
        if isinstance(outcome, Settled):
            return outcome
        config = outcome
        gc.collect()  # the model must be gone before it is loaded anew
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _with_replay(prepared: Prepared, questions: Sequence[str], earlier: EarlierRun | None, asks: bool) -> Prepared:
    """Let the base answer general questions, or take what it has answered for the run that is resumed."""
    if not questions:
        return prepared
    config, bundle = prepared.config, prepared.bundle
    if earlier is not None and earlier.has_replayed(config.replay):
        replayed = read_replayed(Path(config.output_dir), earlier.identity)
    else:
        with leaving_no_trace(bundle.model, bundle.device):
            bundle.model.eval()
            assistant = assistant_for(bundle, prepared.chat_format, config, prepared.record)
            answer = answers_of_base if asks else stand_ins
            replayed = Ranks.of_environment().decided_by_first(lambda: answer(assistant, questions, config))
    return replace(prepared, data=replace(prepared.data, replayed=replayed))


def _attempt(prepared: Prepared, earlier: EarlierRun | None, effort: Callable[[RunPlan], Effort]) -> Settled | Config:
    """Return the run, or the settings to try next."""
    fault: tuple[str, tuple[Remedy, ...]] | None = None
    try:
        settled = _planned_and_tried(prepared, earlier, effort)
    except DoesNotFitError as error:
        if earlier is not None or not prepared.config.auto_fit or not error.candidates:
            raise
        fault = (error.message, error.candidates)
    # A rank whose own memory is enough goes the way of one whose memory is not.
    faults = [found for found in Ranks.of_environment().collect([fault]) if found is not None]
    if not faults:
        return settled
    message, remedies = faults[0]
    return applied(prepared.config, remedies[0], message)


def _planned_and_tried(prepared: Prepared, earlier: EarlierRun | None, effort: Callable[[RunPlan], Effort]) -> Settled:
    config, arguments = prepared.config, prepared.arguments
    earlier_plan = earlier.plan if earlier else None
    plan = plan_run(prepared, earlier_plan)
    if plan.is_short:
        memory = plan.memory
        message = f"about {memory.peak / 1e9:.1f} GB are needed where there are {memory.available / 1e9:.1f}"
        if config.auto_fit and earlier is None:
            raise DoesNotFitError(message, plan.remedies)
        console.warn(f"{message}: {any_of(plan.remedies)}")
    trial = Trial()
    if not arguments.fsdp:  # its ranks have no whole model to try
        trial, plan = try_out(prepared, plan, effort(plan))
    return Settled(replace(prepared, config=_as_decided(config, plan)) if config.auto_fit else prepared, plan, trial)


def _as_decided(config: Config, plan: RunPlan) -> Config:
    """Return the settings with what a plan has decided by itself, as ``auto_fit`` promises to keep it."""
    changes: dict[str, Any] = {}
    if plan.memory.is_checkpointed:
        changes["trainer_args"] = {**config.trainer_args, **CHECKPOINTING["trainer_args"]}
    if config.max_tokens_per_microbatch != "auto":
        changes["max_tokens_per_microbatch"] = min(plan.max_tokens, config.max_tokens_per_microbatch)
    return config.model_copy(update=changes)
