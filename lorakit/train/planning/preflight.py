"""``--task plan``: what a training will take, from its hardest part on the real model, before hours are spent on it."""

from __future__ import annotations

import math

from lorakit import console
from lorakit.config import Config
from lorakit.engine import Ranks, peak_bytes
from lorakit.invocation import this_command
from lorakit.model_config import quiet_libraries
from lorakit.train.planning.answering_time import answering_seconds
from lorakit.train.planning.fitting import Settled, settle
from lorakit.train.planning.plan import RunPlan, memory_line
from lorakit.train.planning.summary import duration
from lorakit.train.planning.trial import Effort, Trial
from lorakit.train.setup.preparing import Prepared
from lorakit.train.setup.remedies import NOTHING_HELPS

_ANSWERED_TOKENS = 16


def run(config: Config) -> int:
    """Plan a training, try its longest micro-batch, its validation and its answers, and print what it all takes.

    Nothing is written.

    Raises:
        DoesNotFitError: It does not fit into memory; the hint says what would.
    """
    quiet_libraries()
    if not Ranks.of_environment().is_first:
        console.silence()
    effort = Effort(passes=2, is_estimate=True, new_tokens=_ANSWERED_TOKENS)
    settled = settle(config, None, lambda _: effort, asks=False)
    answering = answering_seconds(settled.prepared) if settled.trial.tokens else 0.0
    console.facts("plan", _facts(settled, answering), console.result)
    console.suggest("train", this_command("train"))
    return 0


def _facts(settled: Settled, answering: float) -> list[tuple[str, str]]:
    prepared, plan, trial = settled.prepared, settled.plan, settled.trial
    device, validation = prepared.bundle.device, prepared.data.validation
    if not trial.tokens:
        return [("memory planned", memory_line(plan.memory, device)), *_decisions(settled)]
    training, validating = run_seconds(prepared, plan, trial)
    tried = f"the longest micro-batch, a validation and {trial.answer_tokens} tokens of {trial.questions} answers"
    return [
        ("memory planned", memory_line(plan.memory, device)),
        ("memory taken", f"{peak_bytes(device) / 1e9:.2f} GB by {tried}"),
        ("longest micro-batch", f"{trial.tokens} tokens, forward and backward in {trial.step_seconds:.2f} s"),
        *_replayed(prepared),
        ("training", f"about {duration(training)}"),
        ("validation", f"about {duration(validating)} for its losses, one an epoch" if validation else "none"),
        ("answers", f"about {duration(answering)}, of {len(prepared.answered)} rows by base and tuned model"),
        ("whole run", f"about {duration(training + validating + answering)}"),
        *_decisions(settled),
    ]


def _replayed(prepared: Prepared) -> list[tuple[str, str]]:
    replayed = prepared.data.replayed
    if not replayed:
        return []
    many = f"{len(replayed)} answers of the base, at most {replayed.tokens:,} tokens"
    return [("replayed", f"{many}; the time to ask for them is not counted")]


def _decisions(settled: Settled) -> list[tuple[str, str]]:
    plan = settled.plan
    first, *others = [str(remedy) for remedy in plan.remedies] or [NOTHING_HELPS if plan.is_short else "nothing"]
    return [
        ("activation checkpointing", "on" if settled.prepared.arguments.activation_checkpointing else "off"),
        ("compiled", f"{'yes' if plan.is_compiled else 'no'} ({plan.compile_reason})"),
        ("to change", first),
        *(("or", other) for other in others),
    ]


def run_seconds(prepared: Prepared, plan: RunPlan, trial: Trial) -> tuple[float, float]:
    """Estimate the seconds of training, and of all validations."""
    training = trial.step_seconds / trial.tokens * plan.tokens_to_train
    loss_seconds = trial.loss_seconds / trial.loss_tokens * prepared.held_out.tokens
    epochs = plan.tokens_to_train / int(prepared.data.trained.lengths().sum()) * prepared.arguments.world_size
    validations = math.ceil(epochs) if prepared.data.validation else 0
    return training, loss_seconds * (validations + 2)  # and once more by base and tuned model
