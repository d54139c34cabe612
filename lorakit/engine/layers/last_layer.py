"""The last decoder layer, computed only where the loss looks at it.

All tokens give it keys and values. But its queries, its output projection and its MLP matter for trained tokens alone,
since no further layer attends to the others: in each sequence they are computed from the first trained token on. With
long prompts or pictures and short answers this saves most of one layer, with unchanged values.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from lorakit.engine.backends.base import Backend
from lorakit.engine.families import is_known
from lorakit.engine.layers.attention_layer import attend
from lorakit.engine.layout import PackedLayout
from lorakit.engine.micro_batch import MicroBatch
from lorakit.engine.ops.attention import Packed

_WORTHWHILE_SHARE = 0.1  # of the tokens; to leave out fewer is not worth the copies


def matches(module: torch.nn.Module, base: Any) -> bool:
    """Whether a module is the last decoder layer of a model, and of a known family."""
    layers = _layers(base)
    return (
        layers is not None and module is layers[-1] and is_known(module) and not _adds_pictures(base, len(layers) - 1)
    )


def _layers(base: Any) -> Any:
    decoder = base.get_decoder() if hasattr(base, "get_decoder") else None
    return getattr(decoder, "layers", None)


def _adds_pictures(base: Any, number: int) -> bool:
    """Whether the model adds features of pictures to the output of this layer (deepstack)."""
    vision = getattr(base.config, "vision_config", None)
    return number < len(getattr(vision, "deepstack_visual_indexes", ()))


def lay_out(
    base: Any, micro_batch: MicroBatch, keep: torch.Tensor, backend: Backend
) -> tuple[PackedLayout, torch.Tensor]:
    """Say where the sequences lie and from where on the last layer is wanted, and where its output has the kept tokens.

    Args:
        base: The model.
        micro_batch: What it computes.
        keep: [targets], ascending: the tokens whose hidden states are wanted.
        backend: Which computes.

    Returns:
        The layout, and keep in terms of the last layer's output, [targets].
    """
    layout = PackedLayout(tuple(micro_batch.row_lengths), micro_batch.shared_tokens)
    layers = _layers(base)
    tokens = micro_batch.tokens
    if (
        layers is None
        or not hasattr(layers[-1].forward, "is_trimming")
        or not backend.trims_last_layer
        or not len(keep)
    ):
        return layout, keep
    starts = micro_batch.row_starts.tolist()
    first = torch.searchsorted(keep, micro_batch.row_starts[:-1]).tolist()  # the first kept token of each sequence
    kept = [*keep.tolist(), tokens]
    tails = tuple(max(end - kept[index], 0) for index, (_, end) in zip(first, pairwise(starts), strict=True))
    if sum(tails) > (1 - _WORTHWHILE_SHARE) * tokens:
        return layout, keep
    wanted = torch.cat([torch.arange(end - tail, end) for end, tail in zip(starts[1:], tails, strict=True)])
    return PackedLayout(layout.seqlens, layout.prefix_len, tails, wanted), torch.searchsorted(wanted, keep)


def tail_forward(layer: Any, backend: Backend) -> Callable[..., torch.Tensor]:
    """Return the forward of the last layer, which computes what is asked for alone."""
    own_forward = layer.forward

    def forward(hidden_states: torch.Tensor, packed: Packed | None = None, **kwargs: Any) -> torch.Tensor:
        if packed is None or packed.layout.wanted is None:
            given = {} if packed is None else {"packed": packed}
            return own_forward(hidden_states, **given, **kwargs)  # type: ignore[no-any-return]
        wanted = packed.layout.wanted
        normed = layer.input_layernorm(hidden_states)  # [1, tokens, hidden]
        cos, sin = kwargs["position_embeddings"]
        attended = attend(layer.self_attn, normed, packed, cos, sin, wanted)
        hidden_states = hidden_states[:, wanted] + attended  # [1, wanted, hidden]
        return hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))  # type: ignore[no-any-return]

    forward.is_trimming = True  # type: ignore[attr-defined]
    return forward
