"""Log-probabilities of the trained tokens of a micro-batch, and the loss as a sum and a count."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from lorakit.engine.backends.base import Backend
from lorakit.engine.images.pictures import picture_inputs
from lorakit.engine.layers.attach import backend_of, base_model
from lorakit.engine.layers.half_weights import HalfLinear
from lorakit.engine.layers.last_layer import lay_out
from lorakit.engine.layers.packed_attention import NO_MASK, PACKED
from lorakit.engine.micro_batch import IGNORED_LABEL, MicroBatch, isolation_mask
from lorakit.engine.ops.attention import Packed
from lorakit.engine.ops.row_dropout import begin_pass
from lorakit.engine.ops.token_logprobs import TokenLogprobs
from lorakit.engine.pieces import pieces_of

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


@dataclass(frozen=True)
class Scores:
    """What a model says of a micro-batch.

    Attributes:
        logprobs: [targets] in float32: the log-probability of every trained token, sequence by sequence.
        auxiliary: What the model adds to the loss for each of them, as for the balance of its experts.
    """

    logprobs: torch.Tensor
    auxiliary: torch.Tensor | float = 0.0

    @property
    def nats(self) -> torch.Tensor:
        """The summed loss, a scalar."""
        return self.auxiliary * len(self.logprobs) - self.logprobs.sum()


def token_logprobs(model: Any, micro_batch: MicroBatch, label_smoothing: float = 0.0) -> list[Scores]:
    """Compute the log-probability of every trained token.

    Only the hidden states that predict a trained token are projected onto the vocabulary.

    Args:
        model: A causal language model of transformers, with or without a PEFT adapter or a distributed wrapper.
        micro_batch: On the model's device.
        label_smoothing: As in `torch.nn.functional.cross_entropy`: the expected log-probability where so much of each
            target is spread over the vocabulary.

    Returns:
        Scores with gradient where the model has trainable parameters: of the micro-batch, or where its sequences
        cannot be packed, of each of them.
    """
    base = base_model(model)
    if micro_batch.rows > 1 and not _may_be_packed(base, micro_batch):
        return [_scores(model, base, row, label_smoothing) for row in micro_batch.split()]
    return [_scores(model, base, micro_batch, label_smoothing)]


def summed_loss(model: Any, micro_batch: MicroBatch, label_smoothing: float = 0.0) -> torch.Tensor:
    """Sum the cross entropy of every trained token, and what the model adds to it: a scalar. See `token_logprobs`."""
    return torch.stack([one.nats for one in token_logprobs(model, micro_batch, label_smoothing)]).sum()


def _scores(model: Any, base: Any, micro_batch: MicroBatch, label_smoothing: float) -> Scores:
    pieces, backend = pieces_of(base), backend_of(base)
    next_ids = micro_batch.next_ids[0]
    keep = (next_ids != IGNORED_LABEL).nonzero().squeeze(-1)  # [targets]
    targets = next_ids[keep]
    if not pieces.kept_logits:
        begin_pass(base, micro_batch, ())
        output = _plain_output(model, base, micro_batch)
        return Scores(_logprobs_of(output.logits[0, keep], targets, label_smoothing), _balance(base, output))
    head = _plain_head(base) if pieces.loss and not label_smoothing else None
    is_own_attention = base.config.get_text_config()._attn_implementation == PACKED
    pictures = [picture for row in micro_batch.pictures for picture in row]
    mask = NO_MASK if is_own_attention else isolation_mask(micro_batch)
    layout, kept_places = lay_out(base, micro_batch, keep, backend) if is_own_attention else (None, keep)
    begin_pass(base, micro_batch, (layout and layout.tails) or ())
    with _taking_logprobs(head, targets, backend):
        output = model(
            input_ids=micro_batch.input_ids,
            attention_mask=mask,
            position_ids=micro_batch.position_ids,
            logits_to_keep=kept_places,
            use_cache=False,
            **({"packed": Packed(layout, backend)} if layout else {}),
            **picture_inputs(base, pictures),
        )
    logprobs = output.logits.view(-1) if head is not None else _logprobs_of(output.logits[0], targets, label_smoothing)
    return Scores(logprobs, _balance(base, output))


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


def _logprobs_of(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Take the log-probabilities of targets out of logits [targets, vocabulary], in float32."""
    if len(logits) != len(targets):
        raise RuntimeError(f"{len(logits)} logits were returned where {len(targets)} were asked for")
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -cross_entropy(exact, targets, reduction="none", label_smoothing=label_smoothing)


def shares_beginning(model: Any) -> bool:
    """Whether the sequences of a packed row may share the tokens with which all of them begin.

    Dropout draws anew for every sequence; what is shared would be drawn once.
    """
    base = base_model(model)
    settings = base.config.get_text_config()
    is_drawn = model.training and (
        any(getattr(settings, name, 0) for name in _DROPOUTS)
        or any(module.p > 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
    )
    pieces = pieces_of(base)
    return pieces.packing and pieces.beginning and backend_of(base).shares_prefix and not is_drawn


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
    """Return the output projection where `TokenLogprobs` may stand in for it: frozen and linear."""
    head = base.get_output_embeddings()
    is_plain = type(head) in (torch.nn.Linear, HalfLinear) and head.bias is None and not head.weight.requires_grad
    return head if is_plain else None


@contextmanager
def _taking_logprobs(head: torch.nn.Linear | None, targets: torch.Tensor, backend: Backend) -> Iterator[None]:
    """Let the model return log-probabilities [1, targets, 1] where it would return logits.

    They are taken inside the model's forward pass because a sharded model has its whole weights only there.
    """
    if head is None:
        yield
        return

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        wanted = hidden[0] if isinstance(head, HalfLinear) else hidden[0].to(head.weight.dtype)
        return TokenLogprobs.apply(wanted, head.weight, targets, backend).view(1, -1, 1)  # type: ignore[no-any-return]

    head.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward  # the class's own again
