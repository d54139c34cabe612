"""What a training run will take of the device's memory, from one short pass of the real model.

What autograd keeps until the backward pass is measured, not guessed: every tensor it saves passes through
`torch.autograd.graph.saved_tensors_hooks`, and packed rows have no padding, so it grows in proportion to the tokens.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from lorakit.engine.layers.attach import backend_of
from lorakit.engine.layers.half_weights import activation_dtype
from lorakit.engine.loss import summed_loss
from lorakit.engine.micro_batch import MicroBatch
from lorakit.engine.ops.token_logprobs import logits_bytes
from lorakit.engine.runtime.device import device_memory, free_bytes
from lorakit.engine.runtime.machine_memory import resident_bytes

PROBE_TOKENS = 128
# Values of the MLP's width, of one token, that one layer needs for a moment in its backward pass.
_TRANSIENT_WIDTHS = 6
# What the CPU's kernels and the gaps between freed tensors come to in the course of a run, on four jobs 0.1 to 0.4 GB.
_LATER_BYTES = 200_000_000


@dataclass(frozen=True)
class Probe:
    """What a pass of a few tokens has shown.

    Attributes:
        kept_bytes_per_token: What autograd keeps for the backward pass.
        seconds_per_token: How long the forward and backward pass took.
        tokens: How many tokens it had.
    """

    kept_bytes_per_token: float
    seconds_per_token: float
    tokens: int = 0


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a run is expected to take at its peak, by purpose.

    Attributes:
        weights: The frozen base.
        adapter: Its parameters and their gradients.
        optimizer: Its state.
        activations: Kept for the backward pass of the largest micro-batch, and what one layer needs for a moment.
        loss: The logits of a chunk.
        features: Of pictures, kept from the first epoch on; 0 on a GPU, as they are kept in the machine's memory.
        program: The process without all this; 0 on a GPU, where only tensors are counted.
        available: What the device has for all of it.
        tokens: Of the largest micro-batch.
        is_checkpointed: Whether activations are computed anew in the backward pass.
    """

    weights: int
    adapter: int
    optimizer: int
    activations: int
    loss: int
    features: int
    program: int
    available: int
    tokens: int
    is_checkpointed: bool

    @property
    def peak(self) -> int:
        """Everything together."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        """The purposes by name."""
        names = ("weights", "adapter", "optimizer", "activations", "loss", "features", "program")
        return {name: getattr(self, name) for name in names}


def probe(model: Any, micro_batch: MicroBatch, is_good_enough: Callable[[float], bool]) -> Probe:
    """Run the loss forward and backward with a count of what is kept; gradients and random numbers stay as they were.

    Args:
        model: With its adapter, without activation checkpointing.
        micro_batch: On the model's device, a few hundred tokens long.
        is_good_enough: Whether so many seconds a token need not be measured again. The first pass also reads the
            weights from the disk, prepares kernels and computes the features of pictures.
    """
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    tokens = micro_batch.tokens
    was_training = model.training
    model.train()
    with torch.random.fork_rng():
        started = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = summed_loss(model, micro_batch)
        kept_bytes = sum(storage.nbytes() for storage in kept.values())
        kept.clear()
        seconds = _finish_pass(model, loss, started)
        if not is_good_enough(seconds / tokens):
            started = time.perf_counter()
            seconds = _finish_pass(model, summed_loss(model, micro_batch), started)
    model.train(was_training)
    return Probe(kept_bytes / tokens, seconds / tokens, tokens)


def _finish_pass(model: Any, loss: torch.Tensor, started: float) -> float:
    """Go backward, and return the seconds since the start."""
    if loss.requires_grad:  # a row without targets has none
        loss.backward()
    model.zero_grad(set_to_none=True)
    loss.item()  # waits for a GPU
    return time.perf_counter() - started


class MemoryPlanner:
    """Plans for any number of tokens, once a probe has been taken.

    Args:
        model: With its adapter.
        device: Where it computes.
        found: What `probe` has shown.
        optimizer_values: State of the optimizer, in values a trained parameter.
        feature_bytes: What the features of all pictures take.
    """

    def __init__(
        self, model: Any, device: torch.device, found: Probe, optimizer_values: float, feature_bytes: int
    ) -> None:
        self._features = 0 if device.type == "cuda" else feature_bytes
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        self._weights = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
        self._adapter, self._optimizer = 2 * trained, int(optimizer_values * trained)
        settings = model.config.get_text_config()
        self._dtype, self._backend = activation_dtype(model), backend_of(model)
        width: int = self._dtype.itemsize
        hidden: int = settings.hidden_size
        self._layers: int = settings.num_hidden_layers
        inner: int = getattr(settings, "intermediate_size", None) or getattr(settings, "ffn_dim", None) or 4 * hidden
        self._kept_per_token = found.kept_bytes_per_token
        self._layer_input_per_token = hidden * width
        self._transient_per_token = _TRANSIENT_WIDTHS * inner * width
        self._vocabulary: int = settings.vocab_size
        self._program, self._available = _program_and_available(device, self._weights + self._adapter // 2)

    def bytes_per_token(self, is_checkpointed: bool) -> float:
        """Return what one more token in a micro-batch takes.

        With checkpointing each layer keeps its input, and one layer at a time everything.
        """
        if not is_checkpointed:
            return self._kept_per_token + self._transient_per_token
        one_layer = self._kept_per_token / self._layers
        return self._layers * self._layer_input_per_token + one_layer + self._transient_per_token

    def plan(self, tokens: int, is_checkpointed: bool) -> MemoryPlan:
        """Plan a run whose largest micro-batch has so many tokens."""
        return MemoryPlan(
            weights=self._weights,
            adapter=self._adapter,
            optimizer=self._optimizer,
            activations=int(self.bytes_per_token(is_checkpointed) * tokens),
            loss=logits_bytes(tokens, self._vocabulary, self._dtype, self._backend),
            features=self._features,
            program=self._program,
            available=self._available,
            tokens=tokens,
            is_checkpointed=is_checkpointed,
        )

    def fitting_tokens(self, share: float, is_checkpointed: bool) -> int:
        """Return how many tokens fit into a share of the available memory; 0 or less if not even the model does."""
        loss = logits_bytes(sys.maxsize, self._vocabulary, self._dtype, self._backend)
        room = share * self._available - self.plan(0, is_checkpointed).peak - loss
        return int(room / self.bytes_per_token(is_checkpointed))


def _program_and_available(device: torch.device, model_bytes: int) -> tuple[int, int]:
    """Return what the process takes besides the model, and what the device has for both together."""
    if device.type == "cuda":
        return 0, free_bytes(device)
    release_memory()
    resident, own = resident_bytes()  # what lies in files as well, such as weights, is counted as free
    total, _ = device_memory(device)
    return max(resident - model_bytes, 0) + _LATER_BYTES, min(own + free_bytes(device), total)


def release_memory() -> None:
    """Give back to the system what is no longer used.

    Modules with the engine's forwards refer to themselves, so that only the collector finds them. And glibc keeps freed
    memory in the gaps between what is still used; other systems give it back by themselves.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def reset_peak(device: torch.device) -> None:
    """Start to watch for the peak; the resident set of a process cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Return the largest amount of memory taken so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


# What torch's allocator, the C++ library and oneDNN say where memory runs out on a CPU.
_NO_MEMORY = ("can't allocate memory", "bad_alloc", "could not create a memory object", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory from all else that torch raises."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
