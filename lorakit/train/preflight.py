"""``--task plan``: the hardest part of a training, done once on the real model, before hours are spent on all of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing.packing import pack, pack_under_budget
from lorakit.engine import MicroBatch, is_out_of_memory, peak_bytes, reset_peak, shares_beginning, summed_loss
from lorakit.errors import RunError
from lorakit.evaluate.comparison import dataset_loss
from lorakit.inference import assistant_for
from lorakit.inference.generation import answer_batch
from lorakit.model_config import quiet_libraries
from lorakit.train.planning import RunPlan, memory_line, plan_run, tokens_to_train
from lorakit.train.summary import duration
from lorakit.train.training import Prepared, prepare

_ANSWERED_TOKENS = 16


@dataclass(frozen=True)
class _Measured:
    tokens: int
    step_seconds: float
    loss_seconds: float
    answer_seconds_per_token: float
    answered_tokens: int


def run(config: Config) -> int:
    """Plan a training, try its longest micro-batch, its validation and an answer, and print what it all takes.

    Nothing is written.

    Raises:
        RunError: It does not fit into memory; the hint says what would.
    """
    quiet_libraries()
    prepared = prepare(config, None)
    model, sequences = prepared.bundle.model, prepared.data.train.encoded
    plan = plan_run(config, model, prepared.arguments, sequences, None)
    if prepared.arguments.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    reset_peak(prepared.bundle.device)
    try:
        measured = _try_out(config, prepared, plan)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"{plan.memory.tokens} tokens at once do not fit into memory",
            " or ".join(plan.remedies) or "lower max_length, or choose a smaller model",
        ) from error
    _show(config, prepared, plan, measured)
    return 0


def _try_out(config: Config, prepared: Prepared, plan: RunPlan) -> _Measured:
    micro_batch = _longest_micro_batch(config, prepared, plan)
    model = prepared.bundle.model.train()
    seconds = 0.0
    for _ in range(2):  # the first pass also prepares kernels
        started = time.perf_counter()
        summed_loss(model, micro_batch).backward()
        model.zero_grad()
        seconds = time.perf_counter() - started
    model.eval()
    started = time.perf_counter()
    held_out = prepared.data.validation or prepared.data.train
    longest = max(held_out.encoded, key=lambda sequence: len(sequence.input_ids))
    dataset_loss(model, [longest], prepared.bundle.device)
    loss_seconds = (time.perf_counter() - started) / len(longest.input_ids)
    answered = min(config.max_new_tokens, _ANSWERED_TOKENS)
    answer_seconds = _answer_seconds(config.model_copy(update={"max_new_tokens": answered}), prepared)
    return _Measured(int(micro_batch.input_ids.shape[1]), seconds, loss_seconds, answer_seconds / answered, answered)


def _longest_micro_batch(config: Config, prepared: Prepared, plan: RunPlan) -> MicroBatch:
    rows = config.per_device_train_batch_size * config.gradient_accumulation_steps
    by_length = sorted(prepared.data.train.encoded, key=lambda sequence: -len(sequence.input_ids))
    shared = shares_beginning(prepared.bundle.model.train())
    batches = pack_under_budget(by_length[:rows], plan.max_tokens, shared)
    longest = max(batches, key=lambda batch: batch.input_ids.shape[1], default=pack(by_length[:1]))
    return longest.to(prepared.bundle.device)


def _answer_seconds(config: Config, prepared: Prepared) -> float:
    """Time one batch of answers."""
    assistant = assistant_for(prepared.bundle, prepared.chat_format, config, prepared.record)
    held_out = prepared.data.validation or prepared.data.train
    questions: list[Any] = [example.messages[:-1] for example in held_out.examples[: config.per_device_eval_batch_size]]
    started = time.perf_counter()
    answer_batch(assistant, questions, config)
    return time.perf_counter() - started


def _show(config: Config, prepared: Prepared, plan: RunPlan, measured: _Measured) -> None:
    data, validation = prepared.data.train, prepared.data.validation
    training = measured.step_seconds / measured.tokens * tokens_to_train(config, prepared.arguments, data.encoded)
    validating = measured.loss_seconds * validation.tokens * config.num_train_epochs if validation else 0.0
    peak = peak_bytes(prepared.bundle.device)
    facts = [
        ("memory planned", memory_line(plan.memory, prepared.bundle.device)),
        (
            "memory taken",
            f"{peak / 1e9:.2f} GB by the longest micro-batch, a validation and {measured.answered_tokens} tokens",
        ),
        ("longest micro-batch", f"{measured.tokens} tokens, forward and backward in {measured.step_seconds:.2f} s"),
        ("training", f"about {duration(training)}"),
        ("validation", f"about {duration(validating)} for its losses" if validation else "none"),
        ("answers", f"at most {duration(measured.answer_seconds_per_token * config.max_new_tokens)} a batch"),
        ("activation checkpointing", "on" if prepared.arguments.activation_checkpointing else "off"),
        ("compiled", f"{'yes' if plan.is_compiled else 'no'} ({plan.compile_reason})"),
        ("to change", " or ".join(plan.remedies) or "nothing"),
    ]
    console.facts("plan", facts)
