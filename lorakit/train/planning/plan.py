"""What a run decides before its first step: how many tokens at once, checkpointing, compilation; with its reasons."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import EncodedExample, Sequences
from lorakit.data_processing.tokens.packing import fullest_rows, pack
from lorakit.engine import (
    PROBE_TOKENS,
    MemoryPlan,
    MemoryPlanner,
    MicroBatch,
    Probe,
    Ranks,
    base_model,
    decide_compilation,
    device_memory,
    is_out_of_memory,
    keep_compilation,
    kept_feature_bytes,
    probe,
    shares_beginning,
)
from lorakit.language import translated
from lorakit.model_config import bytes_saved, fewer_bits
from lorakit.runs import PlanRecord
from lorakit.train.setup.preparing import Prepared
from lorakit.train.setup.remedies import DoesNotFitError, Remedy, candidates, fitting

# Products of matrices are at full speed from a few hundred rows on; more only takes memory.
_ENOUGH_TOKENS = {"cpu": 1024, "cuda": 16_384, "mps": 4096}
_FEWEST_TOKENS = 256
_SHARE_OF_MEMORY = 0.85
# A longest micro-batch of no more tokens than this is the first thing that is computed.
_MOST_PROBE_TOKENS = 3 * PROBE_TOKENS
_ROUGH_SECONDS = 120  # an estimate below decides nothing
# State of an optimizer in float32 values a parameter, by the beginning of its name; two where it is not listed.
_OPTIMIZER_VALUES = {"sgd": 0.0, "adafactor": 0.1, "lion": 1.0, "rmsprop": 1.0, "adagrad": 1.0, "adamw_bnb_8bit": 0.5}


@dataclass(frozen=True)
class RunPlan:
    """The decisions.

    Attributes:
        memory: Where it will go.
        max_tokens: In one forward and backward pass.
        is_compiled: Whether the decoder layers are compiled.
        compile_reason: Why, or why not.
        tokens_to_train: Of the whole training, on this process.
        seconds_per_token: Measured, for the forward and backward pass; rather too many where they do not matter.
        tried_tokens: Of the longest micro-batch, where the measured pass had it; else 0.
        is_short: Whether it takes more memory than there is, on this rank or another.
        remedies: What would make it fit, where it does not.
        candidates: All that takes less memory, the gentlest first.
    """

    memory: MemoryPlan
    max_tokens: int
    is_compiled: bool
    compile_reason: str
    tokens_to_train: float
    seconds_per_token: float
    tried_tokens: int = 0
    is_short: bool = False
    remedies: tuple[Remedy, ...] = ()
    candidates: tuple[Remedy, ...] = ()

    @property
    def seconds(self) -> float:
        """Estimated for the whole training."""
        return self.tokens_to_train * self.seconds_per_token

    @property
    def record(self) -> PlanRecord:
        """The decisions as the run's records keep them."""
        memory = self.memory
        return PlanRecord(0, self.max_tokens, memory.is_checkpointed, self.is_compiled, memory.peak, memory.parts)


def plan_run(prepared: Prepared, earlier: PlanRecord | None) -> RunPlan:
    """Measure a short pass and decide.

    Args:
        prepared: The activation checkpointing of its model must be off; that of its arguments is switched on where
            memory asks for it.
        earlier: The decisions of the run that this one resumes, which it keeps; None for a new run.

    Raises:
        DoesNotFitError: Not even the short pass fits into memory.
    """
    config, model, arguments = prepared.config, prepared.bundle.model, prepared.arguments
    sequences = prepared.data.trained
    tokens = _tokens_to_train(config, arguments, sequences)
    found, has_tried_longest = _probed(prepared, tokens)
    failed = Ranks.of_environment().collect([found is None])
    if found is None or any(failed):
        raise DoesNotFitError(
            f"the model does not fit: a pass of {PROBE_TOKENS} tokens runs out of memory",
            [Remedy(changes) for changes, _ in _smaller_weights(config, model, arguments)],
            "choose a smaller model, or set torch_dtype: bfloat16",
        )
    features = kept_feature_bytes(base_model(model), sequences.pictures())
    planner = MemoryPlanner(model, arguments.device, found, optimizer_values(str(arguments.optim)), features)
    step_tokens = _largest_step_tokens(config, sequences)
    longest = int(sequences.lengths().max())
    if earlier is not None:
        budget, is_checkpointed = earlier.max_tokens, earlier.is_checkpointed
    else:
        budget, is_checkpointed = _decide_tokens(config, planner, arguments, longest, step_tokens)
    arguments.activation_checkpointing = arguments.activation_checkpointing or is_checkpointed
    memory = planner.plan(max(min(budget, step_tokens), longest), is_checkpointed)
    smaller = candidates(planner, memory, longest, _smaller_weights(config, model, arguments))
    is_short = any(Ranks.of_environment().collect([memory.peak > memory.available]))
    remedies = fitting(smaller, memory.available) if is_short else ()
    seconds = found.seconds_per_token * tokens
    if earlier is not None:
        decision = keep_compilation(earlier.is_compiled, config.compile_layers, seconds)
    elif arguments.fsdp:
        decision = (False, "not together with FSDP")
    else:
        decision = decide_compilation(config.compile_layers, seconds, arguments.device, prepared.backend.is_native)
    tried = found.tokens if has_tried_longest else 0
    return RunPlan(memory, budget, *decision, tokens, found.seconds_per_token, tried, is_short, remedies, smaller)


def longest_micro_batch(prepared: Prepared, max_tokens: int) -> MicroBatch:
    """Return the longest micro-batch that a step could have under a token budget, on the model's device."""
    rows = fullest_rows(prepared.data.trained, rows_per_step(prepared.config), max_tokens)
    return pack(rows, shares_beginning(prepared.bundle.model.train())).to(prepared.bundle.device)


def _probed(prepared: Prepared, tokens: float) -> tuple[Probe | None, bool]:
    """Take a probe, None where memory runs out, and say whether it was of the longest micro-batch."""
    model, config, arguments = prepared.bundle.model, prepared.config, prepared.arguments
    asked = config.max_tokens_per_microbatch
    longest = longest_micro_batch(prepared, _enough_tokens(arguments) if asked == "auto" else asked)
    average = pack(_probe_sequences(prepared.data.trained)).to(arguments.device)
    is_small = longest.tokens <= _MOST_PROBE_TOKENS
    for micro_batch in (longest, average) if is_small else (average,):
        try:
            found = probe(model, micro_batch, lambda seconds: seconds * tokens < _ROUGH_SECONDS)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            model.zero_grad(set_to_none=True)
        else:
            return found, micro_batch is longest
    return None, False


def _smaller_weights(config: Config, model: Any, arguments: TrainingArguments) -> list[tuple[Mapping[str, Any], int]]:
    """Return the settings for weights in fewer bits, each with the bytes that it saves."""
    if arguments.device.type != "cuda" or arguments.fsdp:
        return []
    return [(changes, bytes_saved(model, kind)) for kind, changes in fewer_bits(config).items()]


def _decide_tokens(
    config: Config, planner: MemoryPlanner, arguments: TrainingArguments, longest: int, step_tokens: int
) -> tuple[int, bool]:
    """Choose the budget, and checkpointing where a pass would not fit without it."""
    share = _SHARE_OF_MEMORY / (_processes_here() if arguments.device.type == "cpu" else 1)
    asked = config.max_tokens_per_microbatch
    needed = longest if asked == "auto" else max(min(asked, step_tokens), longest)
    is_checkpointed = bool(arguments.activation_checkpointing)
    fitting = planner.fitting_tokens(share, is_checkpointed)
    # Sharded ranks that did not agree on this would wait for each other for ever.
    is_short = any(Ranks.of_environment().collect([fitting < needed]))
    if is_short and not is_checkpointed:
        is_checkpointed = True
        fitting = planner.fitting_tokens(share, is_checkpointed)
        console.note(
            f"activation checkpointing is switched on: {needed} tokens at once would not fit into memory without it"
        )
    if asked != "auto":
        return asked, is_checkpointed
    return max(min(fitting, _enough_tokens(arguments)), _FEWEST_TOKENS), is_checkpointed


def _enough_tokens(arguments: TrainingArguments) -> int:
    return _ENOUGH_TOKENS.get(arguments.device.type, _ENOUGH_TOKENS["cpu"])


def _processes_here() -> int:
    """Processes that share this machine's memory; set by torchrun and accelerate launch."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _probe_sequences(sequences: Sequence[EncodedExample]) -> list[EncodedExample]:
    """Return rows of about `PROBE_TOKENS` tokens together, as they are on average; a long row is cut."""
    chosen: list[EncodedExample] = []
    tokens = 0
    for sequence in sequences:
        room = PROBE_TOKENS - tokens
        part = sequence  # pictures cannot be cut
        if not sequence.pictures:
            part = EncodedExample(sequence.input_ids[:room], sequence.labels[:room], sequence.origin)
        chosen.append(part)
        tokens += len(part.input_ids)
        if tokens >= PROBE_TOKENS:
            break
    return chosen


def _largest_step_tokens(config: Config, sequences: Sequences) -> int:
    """Return the tokens of the longest rows that one step of one device could have to take."""
    return int(np.sort(sequences.lengths())[-rows_per_step(config) :].sum())


def rows_per_step(config: Config) -> int:
    """Return the rows of an optimizer step on one device."""
    return config.per_device_train_batch_size * config.gradient_accumulation_steps


def _tokens_to_train(config: Config, arguments: TrainingArguments, sequences: Sequences) -> float:
    """Return the tokens that this process computes in the whole run."""
    epoch = int(sequences.lengths().sum())
    if arguments.max_steps > 0:
        return float(epoch / len(sequences) * rows_per_step(config) * arguments.max_steps)
    return float(epoch * config.num_train_epochs / arguments.world_size)


def optimizer_values(name: str) -> float:
    """Return how many float32 values an optimizer keeps for each parameter."""
    name = name.rpartition(".")[2].lower()
    return next((values for start, values in _OPTIMIZER_VALUES.items() if name.startswith(start)), 2.0)


def memory_line(memory: MemoryPlan, device: torch.device) -> str:
    """Say where the memory will go, in gigabytes."""
    parts = ", ".join(f"{translated(name)} {size / 1e9:.2f}" for name, size in memory.parts.items() if size > 5e6)
    how = f"{memory.tokens} tokens at once" + (", checkpointed" if memory.is_checkpointed else "")
    total, whose = device_memory(device)
    room = f"{whose} memory of {total / 1e9:.1f} GB, of which {memory.available / 1e9:.1f} can be had"
    return f"about {memory.peak / 1e9:.2f} GB of {room}: {parts} ({how})"
