"""What an optimizer step is made of: its rows, how they are cut into passes, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from lorakit import console
from lorakit.data_processing import EncodedExample
from lorakit.engine import MicroBatch, is_out_of_memory, token_logprobs
from lorakit.errors import RunError
from lorakit.runs import PlanRecord, RecordLog
from lorakit.train.objectives.base import Objective


@dataclass
class Step:
    """The rows of the running optimizer step on this rank, which may be none, and their loss so far."""

    sequences: Sequence[EncodedExample]
    loss: float = 0.0

    @property
    def origins(self) -> str:
        """Where its rows stand."""
        return ", ".join(sequence.origin for sequence in self.sequences)


@dataclass(frozen=True)
class TokenBudget:
    """How an optimizer step is cut into passes.

    Attributes:
        plan: What was decided before the first step, or by a halving since.
        longest: Tokens of the longest micro-batch there could be, for the first step to begin with one as long, so that
            what does not fit shows at once; 0 where that is known already.
        most_added: How many tokens without loss the first step may be made longer by for that.
    """

    plan: PlanRecord
    longest: int
    most_added: float

    @property
    def most(self) -> int:
        """Tokens in one forward and backward pass; halved where memory runs out."""
        return self.plan.max_tokens

    def halved(self, step: int) -> TokenBudget:
        """Half of it, as memory did not suffice for a step."""
        half = self.most // 2
        return replace(self, plan=replace(self.plan, step=step, max_tokens=half), longest=min(self.longest, half))


@dataclass(frozen=True)
class Trace:
    """How a run is known by what it leaves.

    Attributes:
        mark: Carried by its checkpoints.
        records: Where every step and every validation is written; None on ranks that write nothing.
        warn: Where the warnings of its alarms go.
        check_base: Raises `ModelError` where the base is no longer that of the run, whose steps no checkpoint may hold.
    """

    mark: str
    records: RecordLog | None
    warn: Callable[[str], None] = console.warn
    check_base: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Surroundings:
    """What the passes of a step run in: number formats, distribution, and how gradients are taken.

    Attributes:
        autocast: The context of a forward pass.
        exchanging: The context of a pass, given whether it is the last one.
        backward: Takes the gradients of a loss, scaled where the format asks for it.
        device: Of the model.
    """

    autocast: Callable[[], AbstractContextManager[Any]]
    exchanging: Callable[[bool], AbstractContextManager[Any]]
    backward: Callable[[torch.Tensor], None]
    device: torch.device


def add_gradients(
    model: Any,
    passes: Sequence[tuple[MicroBatch, float]],
    objective: Objective,
    scale: torch.Tensor | float,
    around: Surroundings,
) -> torch.Tensor:
    """Add a step's gradients to those of the model's parameters.

    Args:
        model: In its distributed wrapper, where that takes part in a pass.
        passes: The micro-batches of the step on this rank, each with what it counts: one that is there only for others
            to keep in step counts nothing.
        objective: What is minimised.
        scale: What the loss is multiplied by: ranks over the targets of the step.
        around: Of the passes.

    Returns:
        The loss, a scalar on the device, which nothing has waited for.
    """
    total = torch.zeros((), device=around.device)
    for number, (micro_batch, weight) in enumerate(passes, start=1):
        with around.exchanging(number == len(passes)):
            with around.autocast():
                scores = token_logprobs(model, micro_batch.to(around.device), objective.label_smoothing)
                loss = objective.loss(scores) * (weight * scale)
            around.backward(loss)
        total += loss.detach()
        # Its graph has thousands of small parts, between which the freed activations would lie in pieces.
        del scores, loss
    return total


def does_not_fit(longest: int) -> RunError:
    """Return what ends a run whose longest row, of so many tokens, takes more memory than there is."""
    return RunError(
        f"a row of {longest} tokens does not fit into memory",
        "lower max_length, or set trainer_args: {activation_checkpointing: true}, or choose a smaller model",
    )


@contextmanager
def explaining_memory(sequences: Sequence[EncodedExample]) -> Iterator[None]:
    """Turn a lack of memory into the error that a user needs.

    Raises:
        RunError: Memory has run out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise does_not_fit(max((len(sequence.input_ids) for sequence in sequences), default=0)) from error
