"""The hardest part of a training, done once before its first step, so that a fault shows now and not after hours.

It leaves no trace: neither gradients nor drawn random numbers.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lorakit import console
from lorakit.data_processing import EncodedExample, Message
from lorakit.engine import MicroBatch, activation_dtype, free_bytes, is_out_of_memory, reset_peak, summed_loss
from lorakit.errors import DataError
from lorakit.evaluate.comparison import dataset_loss
from lorakit.inference import Assistant, assistant_for
from lorakit.inference.generation import answer_batch
from lorakit.inference.sampling import SamplingParams
from lorakit.train.planning.plan import RunPlan, longest_micro_batch
from lorakit.train.setup.preparing import Prepared
from lorakit.train.setup.remedies import DoesNotFitError, Remedy

_FEWEST_TOKENS = 16
_FORWARD_SHARE = 0.4  # of a trained token's cost in a token that is not trained


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Attributes:
        passes: Forward and backward through the longest micro-batch; the last one is timed.
        is_estimate: What costs less than the longest micro-batch is tried too, to be timed.
        new_tokens: Generated for each question.
        tokens: How many all that is tried may cost, counted in tokens that are trained; what would cost more is left
            out.
        seconds: What is foreseen to take no longer than this is tried all the same.
    """

    passes: int = 1
    is_estimate: bool = False
    new_tokens: int = 2
    tokens: float = math.inf
    seconds: float = 0.0


@dataclass(frozen=True)
class Trial:
    """What was tried, and how long it took.

    Attributes:
        tokens: Of the longest micro-batch; 0 where it was left out.
        step_seconds: Forward and backward.
        loss_tokens: Of the longest held-out row; 0 where it was left out, or is no longer than the micro-batch.
        loss_seconds: Of its loss.
        questions: How many were answered at once.
        answer_tokens: Generated for each of them.
        answer_seconds: For all of them together.
    """

    tokens: int = 0
    step_seconds: float = 0.0
    loss_tokens: int = 0
    loss_seconds: float = 0.0
    questions: int = 0
    answer_tokens: int = 0
    answer_seconds: float = 0.0

    def __str__(self) -> str:
        """What was tried, and what was left out, in words."""
        asked = "the longest question" if self.questions == 1 else f"the {self.questions} longest questions"
        parts = {
            f"the longest micro-batch ({self.tokens} tokens)": self.tokens,
            f"the loss of a row of {self.loss_tokens} tokens": self.loss_tokens,
            f"{asked} with {self.answer_tokens} tokens each": self.questions,
        }
        return ", ".join(text for text, is_tried in parts.items() if is_tried) or "nothing"


def try_out(prepared: Prepared, plan: RunPlan, effort: Effort) -> tuple[Trial, RunPlan]:
    """Try the longest micro-batch, the loss of the longest held-out row, and the longest questions.

    Args:
        prepared: The run.
        plan: Its decisions.
        effort: How much is tried.

    Returns:
        What was found, and the plan, its token budget halved as often as memory ran out.

    Raises:
        DoesNotFitError: Memory runs out with a single row, or with the answers.
        DataError: A question is too long for the model to answer.
    """
    model, device = prepared.bundle.model, prepared.bundle.device
    assistant = assistant_for(prepared.bundle, prepared.chat_format, prepared.config, prepared.record)
    questions = _questions_by_length(prepared, assistant)
    batch_size = prepared.config.per_device_eval_batch_size
    allowance = _Allowance(effort, plan.seconds_per_token)
    trial = Trial()
    reset_peak(device)
    with leaving_no_trace(model, device):
        batch = longest_micro_batch(prepared, plan.max_tokens)
        tokens = batch.tokens
        if tokens <= plan.tried_tokens and not effort.is_estimate:  # by the pass that planned the memory
            trial = Trial(tokens, plan.seconds_per_token * tokens)
        elif allowance.takes(tokens * effort.passes):
            trial, plan = _try_step(prepared, plan, batch, effort.passes)
        model.eval()
        held_out = prepared.held_out.encoded
        longest = held_out[int(held_out.lengths().argmax())]
        is_harder = len(longest.input_ids) > trial.tokens
        if (is_harder or effort.is_estimate) and allowance.takes(len(longest.input_ids) * _FORWARD_SHARE):
            trial = _try_loss(prepared, longest, trial)
        takes_all = allowance.takes(questions[0].tokens * min(batch_size, len(questions)) * _FORWARD_SHARE)
        chosen = questions[: batch_size if takes_all else 1]  # one shows most faults, if not a lack of memory
        return _try_answers(prepared, assistant, chosen, trial, effort.new_tokens), plan


class _Allowance:
    """What may still be spent, in trained tokens."""

    def __init__(self, effort: Effort, seconds_per_token: float) -> None:
        self._effort = effort
        self._seconds_per_token = seconds_per_token
        self._spent = 0.0

    def takes(self, tokens: float) -> bool:
        """Spend so many tokens, where there are as many left."""
        spent = self._spent + tokens
        if spent > self._effort.tokens and spent * self._seconds_per_token > self._effort.seconds:
            return False
        self._spent = spent
        return True


@contextmanager
def leaving_no_trace(model: Any, device: torch.device) -> Iterator[None]:
    """Leave gradients, mode and random numbers as they were."""
    was_training = model.training
    of_python, of_numpy = random.getstate(), np.random.get_state()
    of_mps = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        if of_mps is not None:
            torch.mps.set_rng_state(of_mps)


def _try_step(prepared: Prepared, plan: RunPlan, batch: MicroBatch, passes: int) -> tuple[Trial, RunPlan]:
    """Compute the longest micro-batch, with half the token budget where memory runs out, as a training would."""
    model = prepared.bundle.model.train()
    while True:
        try:
            with _checkpointed(model) if plan.memory.is_checkpointed else nullcontext():
                return _timed_step(model, batch, passes), plan
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            tokens = batch.tokens
            if batch.rows == 1 or tokens <= _FEWEST_TOKENS:
                raise DoesNotFitError(f"{tokens} tokens at once do not fit into memory", plan.candidates) from error
        plan = replace(plan, max_tokens=max(min(plan.max_tokens, tokens) // 2, _FEWEST_TOKENS))
        console.warn(f"out of memory with {tokens} tokens at once: there will be at most {plan.max_tokens}")
        model.zero_grad(set_to_none=True)
        batch = longest_micro_batch(prepared, plan.max_tokens)


def _timed_step(model: Any, batch: MicroBatch, passes: int) -> Trial:
    seconds = 0.0
    for _ in range(passes):  # the first one also prepares kernels
        started = time.perf_counter()
        summed_loss(model, batch).backward()
        model.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
    return Trial(batch.tokens, seconds)


@contextmanager
def _checkpointed(model: Any) -> Iterator[None]:
    """Compute activations anew, as the Trainer will have it by itself."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()


def _try_loss(prepared: Prepared, longest: EncodedExample, trial: Trial) -> Trial:
    started = time.perf_counter()
    dataset_loss(prepared.bundle.model, [longest], prepared.bundle.device)
    return replace(trial, loss_tokens=len(longest.input_ids), loss_seconds=time.perf_counter() - started)


@dataclass(frozen=True)
class _Question:
    prompt: Sequence[int]
    messages: Sequence[Message]

    @property
    def tokens(self) -> int:
        """Of the question."""
        return len(self.prompt)


def _questions_by_length(prepared: Prepared, assistant: Assistant) -> list[_Question]:
    """Return what is answered at the end, the longest first."""
    limit = _position_limit(prepared.bundle.model)
    questions = []
    for example in prepared.answered:
        messages = example.messages[:-1]
        prompt = assistant.asked_ids(messages, example.messages[-1].content, prepared.config.max_length)
        tokens = len(prompt)
        if tokens >= limit:
            raise DataError(
                f"{example.origin}: its question of {tokens} tokens leaves no room for an answer in this model's "
                f"{limit:.0f}, though it could be trained after a cut",
                "shorten the question, take the row out, or lower max_generated_rows so that it is not asked",
            )
        questions.append(_Question(prompt, messages))
    return sorted(questions, key=lambda question: -question.tokens)


def _position_limit(model: Any) -> float:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return math.inf if limit is None else limit


def _try_answers(
    prepared: Prepared, assistant: Assistant, questions: Sequence[_Question], trial: Trial, new_tokens: int
) -> Trial:
    """Answer briefly, with as much memory put aside as whole answers would take for their keys and values."""
    config, model, device = prepared.config, prepared.bundle.model, prepared.bundle.device
    brief = replace(SamplingParams.of(config), max_new_tokens=min(config.max_new_tokens, new_tokens))
    later = min(config.max_new_tokens, _position_limit(model) - questions[0].tokens) - brief.max_new_tokens
    started = time.perf_counter()
    try:
        aside = _put_aside(_cache_bytes(model, len(questions) * max(int(later), 0)), device)
        prompts = [question.prompt for question in questions]
        answer_batch(assistant, [question.messages for question in questions], brief, prompts=prompts)
        del aside
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fewer = [Remedy({"per_device_eval_batch_size": len(questions) // 2})] if len(questions) > 1 else []
        raise DoesNotFitError(
            f"{len(questions)} answers at once, of up to {config.max_new_tokens} tokens, do not fit into memory",
            fewer,
            "lower max_new_tokens, or choose a smaller model",
        ) from error
    seconds = time.perf_counter() - started
    return replace(trial, questions=len(questions), answer_tokens=brief.max_new_tokens, answer_seconds=seconds)


def _cache_bytes(model: Any, tokens: int) -> int:
    """Return what keys and values of so many tokens take."""
    settings = model.config.get_text_config()
    heads = getattr(settings, "num_attention_heads", None)
    if not heads:  # state-space models keep the same for any number of tokens
        return 0
    width = _setting(settings, "head_dim") or settings.hidden_size // heads
    heads = _setting(settings, "num_key_value_heads") or heads
    return int(2 * settings.num_hidden_layers * heads * width * activation_dtype(model).itemsize * tokens)


def _setting(settings: Any, name: str) -> Any:
    """Return a setting, the largest where layers have their own; None where there is none."""
    try:
        return getattr(settings, name, None)
    except Exception:  # of transformers, where layers differ
        return max((getattr(one, name, None) or 0 for one in settings.per_layer_config.values()), default=None)


def _put_aside(size: int, device: torch.device) -> torch.Tensor:
    """Take memory. A CPU's is not taken before it is written to, so that it is only counted there."""
    if device.type != "cuda" and size > free_bytes(device):
        raise torch.OutOfMemoryError(f"{size} bytes are not free")
    return torch.empty(size if device.type == "cuda" else 0, dtype=torch.uint8, device=device)
