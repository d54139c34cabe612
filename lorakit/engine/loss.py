"""The loss: cross entropy of the trained tokens, as a sum and a count, without ever holding all logits."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from lorakit.engine.backends.cpu.kernels import has_kernels, kernels_for
from lorakit.engine.images.pictures import picture_inputs
from lorakit.engine.layers.half_weights import HalfLinear
from lorakit.engine.layers.last_layer import place_rows
from lorakit.engine.micro_batch import IGNORED_LABEL, MicroBatch, isolation_mask
from lorakit.engine.ops.packed_attention import NO_MASK, PACKED
from lorakit.engine.ops.products import product
from lorakit.engine.ops.row_dropout import begin_pass
from lorakit.engine.pieces import pieces_of

# The logits of a chunk take about so much, where that leaves no fewer targets than the other number, below which the
# product waits for the weights to be read. From 32 MiB on, glibc takes memory fresh from the system each time.
_CHUNK_BYTES = 33_000_000
_FEWEST_CHUNK_TARGETS = 160
_DROPOUTS = ("attention_dropout", "activation_dropout", "dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop")


@dataclass(frozen=True)
class LossSum:
    """A loss that adds up exactly: across micro-batches, steps, ranks and evaluation batches.

    Attributes:
        nats: Summed negative log-likelihood.
        targets: How many tokens it was summed over.
    """

    nats: float = 0.0
    targets: int = 0

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(self.nats + other.nats, self.targets + other.targets)

    @property
    def mean(self) -> float:
        """Nats per target token."""
        return self.nats / self.targets if self.targets else math.nan

    @property
    def perplexity(self) -> float:
        """exp(mean); infinite rather than an error where that overflows."""
        return math.exp(self.mean) if self.mean < 700 else math.inf


class TargetLoss(torch.autograd.Function):
    """Summed cross entropy of hidden states through a frozen output projection.

    Loss and input gradient come from the same pass over chunks of rows: the logits of a chunk become its gradient in
    place and are gone before the next chunk. The log-sum-exp is taken in float32 (float64 for float64 input).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss in nats, a scalar.

        Args:
            ctx: Of autograd.
            hidden: [targets, hidden]
            weight: [vocabulary, hidden], frozen.
            targets: [targets], token ids.
        """
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        exact = torch.promote_types(hidden.dtype, torch.float32)
        nats = torch.zeros((), dtype=exact, device=hidden.device)
        rows = _chunk_targets(len(hidden), len(weight), hidden.dtype)
        # Fresh memory of this size would cost more than the arithmetic on it, so all chunks share it.
        buffer = hidden.new_empty(rows, weight.shape[0])
        kernels = kernels_for(buffer)
        exact_buffer = buffer if kernels else buffer.to(exact)  # the same where hidden is exact already
        for start in range(0, len(hidden), rows):
            chunk, wanted = slice(start, start + rows), targets[start : start + rows]
            logits = product(hidden[chunk], weight.T, place=buffer[: len(wanted)])  # [rows, vocabulary]
            if kernels:
                each, total = nats.new_empty(len(wanted)), None
                kernels.cross_entropy(logits, wanted, each, *logits.shape, gradient is not None)
                nats += each.sum()
            else:
                loss, total = _cross_entropy(logits, wanted[:, None], exact_buffer[: len(wanted)])
                nats += loss
            if gradient is not None:
                through_head = product(logits, weight, place=gradient[chunk])
                if total is not None:
                    through_head.div_(total)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return nats

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Scale the gradient that the forward pass has already computed."""
        (gradient,) = ctx.saved_tensors
        return gradient * grad.to(gradient.dtype), None, None


def _cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, exponents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the loss, and turn logits into its gradient, (softmax - one-hot), times the total that is returned.

    Args:
        logits: [rows, vocabulary]
        targets: [rows, 1]
        exponents: Room for the logits in float32; logits itself where they have that format.

    Returns:
        Nats, and the total of each row, [rows, 1]: to divide the product is cheaper than to divide the gradient.
    """
    if exponents.data_ptr() != logits.data_ptr():
        exponents.copy_(logits)
    at_target = exponents.gather(1, targets)
    largest = exponents.amax(dim=-1, keepdim=True)  # [rows, 1]
    total = exponents.sub_(largest).exp_().sum(dim=-1, keepdim=True)  # [rows, 1]
    nats = (total.log() + largest - at_target).sum()
    if logits.dtype is torch.float16:  # it ends at 65,504, which the total may exceed
        exponents.div_(total)
        total.fill_(1)
    exponents.scatter_add_(1, targets, -total)
    logits.copy_(exponents)
    return nats, total


def _chunk_targets(targets: int, vocabulary: int, dtype: torch.dtype) -> int:
    """Choose how many targets to project at a time: in as few chunks as fit, all of about one size."""
    chunks = math.ceil(targets / _most_chunk_targets(vocabulary, dtype))
    return math.ceil(targets / max(chunks, 1)) or 1


def loss_buffer_bytes(targets: int, vocabulary: int, dtype: torch.dtype) -> int:
    """Return the most that logits take for so many targets or fewer."""
    rows = min(targets, _most_chunk_targets(vocabulary, dtype))
    return rows * vocabulary * _logit_bytes(dtype)


def _most_chunk_targets(vocabulary: int, dtype: torch.dtype) -> int:
    return max(_CHUNK_BYTES // (vocabulary * _logit_bytes(dtype)), _FEWEST_CHUNK_TARGETS)


def _logit_bytes(dtype: torch.dtype) -> int:
    """Return what one logit takes, with the float32 copy that PyTorch's operations need."""
    is_copied = dtype.itemsize < torch.float32.itemsize and not has_kernels(dtype)
    return int(dtype.itemsize + (torch.float32.itemsize if is_copied else 0))


def summed_loss(model: Any, micro_batch: MicroBatch, label_smoothing: float = 0.0) -> torch.Tensor:
    """Sum the cross entropy of every trained token, in float32.

    Only the hidden states that predict a trained token are projected onto the vocabulary.

    Args:
        model: A causal language model of transformers, with or without a PEFT adapter or a distributed wrapper.
        micro_batch: On the model's device.
        label_smoothing: As in `torch.nn.functional.cross_entropy`.

    Returns:
        A scalar, with gradient where the model has trainable parameters.
    """
    base = base_model(model)
    pieces = pieces_of(base)
    if micro_batch.rows > 1 and not _may_be_packed(base, micro_batch):
        return torch.stack([summed_loss(model, row, label_smoothing) for row in micro_batch.split()]).sum()
    next_ids = micro_batch.next_ids[0]
    keep = (next_ids != IGNORED_LABEL).nonzero().squeeze(-1)  # [targets]
    targets = next_ids[keep]
    if not pieces.kept_logits:
        begin_pass(base, micro_batch, ())
        output = _plain_output(model, base, micro_batch)
        nats = _cross_entropy_sum(output.logits[0, keep], targets, label_smoothing)
        return nats + _balance(base, output) * len(targets)
    head = _plain_head(base) if pieces.loss and not label_smoothing else None
    is_own_attention = base.config.get_text_config()._attn_implementation == PACKED
    pictures = [picture for row in micro_batch.pictures for picture in row]
    mask = NO_MASK if is_own_attention else isolation_mask(micro_batch)
    places, kept_places = place_rows(base, micro_batch, keep) if is_own_attention else (None, keep)
    begin_pass(base, micro_batch, (places and places.tails) or ())
    with _taking_loss(head, targets):
        output = model(
            input_ids=micro_batch.input_ids,
            attention_mask=mask,
            position_ids=micro_batch.position_ids,
            logits_to_keep=kept_places,
            use_cache=False,
            **({"packed_rows": places} if places else {}),
            **picture_inputs(base, pictures),
        )
    if head is not None:
        nats = output.logits.squeeze()
    else:
        nats = _cross_entropy_sum(output.logits[0], targets, label_smoothing)
    return nats + _balance(base, output) * len(targets)  # type: ignore[no-any-return]


def balances_experts(base: Any) -> bool:
    """Whether a model's settings ask for a loss that lets its routers ask all experts alike, while it is trained."""
    return bool(base.training and getattr(base.config.get_text_config(), "output_router_logits", False))


def _balance(base: Any, output: Any) -> torch.Tensor | float:
    """Return that loss for each trained token: what a model of transformers adds to the mean."""
    found = getattr(output, "aux_loss", None) if balances_experts(base) else None
    if not isinstance(found, torch.Tensor):
        return 0.0
    weight = getattr(base.config.get_text_config(), "router_aux_loss_coef", None)
    return found * (getattr(base, "router_aux_loss_coef", 0.0) if weight is None else weight)


def _plain_output(model: Any, base: Any, row: MicroBatch) -> Any:
    """Call a model as anybody would, with one sequence."""
    if row.pictures:
        raise RuntimeError(f"{type(base).__name__} cannot be shown pictures together with positions")
    settings = {"use_cache": False} if "use_cache" in inspect.signature(base.forward).parameters else {}
    return model(input_ids=row.input_ids, **settings)


def _cross_entropy_sum(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Take the loss of logits [targets, vocabulary], in float32."""
    if len(logits) != len(targets):
        raise RuntimeError(f"{len(logits)} logits were returned where {len(targets)} were asked for")
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return cross_entropy(exact, targets, reduction="sum", label_smoothing=label_smoothing)


def shares_beginning(model: Any) -> bool:
    """Whether the sequences of a packed row may share the tokens with which all of them begin.

    Dropout draws anew for every sequence; what is shared would be drawn once. GPUs' attention kernels take sequences
    that lie apart.
    """
    base = base_model(model)
    settings = base.config.get_text_config()
    is_drawn = model.training and (
        any(getattr(settings, name, 0) for name in _DROPOUTS)
        or any(module.p > 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
    )
    pieces = pieces_of(base)
    return pieces.packing and pieces.beginning and base.device.type == "cpu" and not is_drawn


def base_model(model: Any) -> Any:
    """Take a model out of a distributed wrapper and out of PEFT's."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def _may_be_packed(base: Any, micro_batch: MicroBatch) -> bool:
    """Whether rows together give what each of them gives alone.

    A model's own attention would lose its window in the mask that keeps rows apart.
    """
    pieces, settings = pieces_of(base), base.config.get_text_config()
    longest = micro_batch.shared_tokens + max(micro_batch.row_lengths)
    limits = [pieces.most_positions]
    if settings._attn_implementation != PACKED:
        is_used = getattr(settings, "use_sliding_window", True)
        limits += [getattr(settings, "sliding_window", None) if is_used else None]
        limits += [getattr(settings, "attention_chunk_size", None)]
    is_alike = all(limit is None or longest <= limit for limit in limits)
    return pieces.packing and is_alike and not balances_experts(base)  # which is a matter of whole rows


def _plain_head(base: Any) -> torch.nn.Linear | None:
    """Return the output projection where the loss may stand in for it: frozen and linear."""
    head = base.get_output_embeddings()
    is_plain = type(head) in (torch.nn.Linear, HalfLinear) and head.bias is None and not head.weight.requires_grad
    return head if is_plain else None


@contextmanager
def _taking_loss(head: torch.nn.Linear | None, targets: torch.Tensor) -> Iterator[None]:
    """Let the model return the summed loss [1, 1, 1] where it would return logits.

    The loss is taken inside the model's forward pass because a sharded model has its whole weights only there.
    """
    if head is None:
        yield
        return

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[1] != len(targets):  # C++ would read beyond its end
            raise RuntimeError(f"{hidden.shape[1]} logits are computed where {len(targets)} were asked for")
        wanted = hidden[0] if isinstance(head, HalfLinear) else hidden[0].to(head.weight.dtype)
        return TargetLoss.apply(wanted, head.weight, targets).view(1, 1, 1)  # type: ignore[no-any-return]

    head.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward  # the class's own again
