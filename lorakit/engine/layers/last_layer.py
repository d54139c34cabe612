"""The last decoder layer, computed only where the loss looks at it.

All tokens give it keys and values. But its queries, its output projection and its MLP matter for trained tokens alone,
since no further layer attends to the others: in each sequence they are computed from the first trained token on. With
long prompts or pictures and short answers this saves most of one layer, with unchanged values.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any
from weakref import WeakSet

import torch

from lorakit.engine.layers.attention_layer import attend
from lorakit.engine.micro_batch import MicroBatch
from lorakit.engine.ops.packed_attention import PackedRows
from lorakit.engine.ops.pointwise import is_known

_WORTHWHILE_SHARE = 0.1  # of the tokens; to leave out fewer is not worth the copies
_PREPARED: WeakSet[torch.nn.Module] = WeakSet()


def accelerate_last_layer(base: Any) -> None:
    """Let the last layer compute only what it is asked for, where its family is known.

    Args:
        base: A causal language model of transformers, out of any wrapper.
    """
    layers = getattr(base.get_decoder(), "layers", None)
    if layers is None or layers[-1] in _PREPARED:
        return
    if not is_known(layers[-1]) or _adds_pictures(base, len(layers) - 1):
        return
    layers[-1].forward = _tail_forward(layers[-1])
    _PREPARED.add(layers[-1])


def _adds_pictures(base: Any, number: int) -> bool:
    """Whether the model adds features of pictures to the output of this layer (deepstack)."""
    vision = getattr(base.config, "vision_config", None)
    return number < len(getattr(vision, "deepstack_visual_indexes", ()))


def place_rows(base: Any, micro_batch: MicroBatch, keep: torch.Tensor) -> tuple[PackedRows, torch.Tensor]:
    """Say where the sequences lie and from where on the last layer is wanted, and where its output has the kept tokens.

    Args:
        base: The model.
        micro_batch: What it computes.
        keep: [targets], ascending: the tokens whose hidden states are wanted.

    Returns:
        The places, and keep in terms of the last layer's output, [targets].
    """
    places = PackedRows(tuple(micro_batch.row_lengths), micro_batch.shared_tokens)
    layers = getattr(base.get_decoder(), "layers", None)
    tokens = micro_batch.tokens
    if layers is None or layers[-1] not in _PREPARED or micro_batch.input_ids.device.type != "cpu" or not len(keep):
        return places, keep
    starts = micro_batch.row_starts.tolist()
    first = torch.searchsorted(keep, micro_batch.row_starts[:-1]).tolist()  # the first kept token of each sequence
    kept = [*keep.tolist(), tokens]
    tails = tuple(max(end - kept[index], 0) for index, (_, end) in zip(first, pairwise(starts), strict=True))
    if sum(tails) > (1 - _WORTHWHILE_SHARE) * tokens:
        return places, keep
    wanted = torch.cat([torch.arange(end - tail, end) for end, tail in zip(starts[1:], tails, strict=True)])
    return PackedRows(places.lengths, places.shared, tails, wanted), torch.searchsorted(wanted, keep)


def _tail_forward(layer: Any) -> Callable[..., torch.Tensor]:
    own_forward = layer.forward

    def forward(hidden_states: torch.Tensor, packed_rows: PackedRows | None = None, **kwargs: Any) -> torch.Tensor:
        if packed_rows is None or packed_rows.wanted is None:
            given = {} if packed_rows is None else {"packed_rows": packed_rows}
            return own_forward(hidden_states, **given, **kwargs)  # type: ignore[no-any-return]
        wanted = packed_rows.wanted
        normed = layer.input_layernorm(hidden_states)  # [1, tokens, hidden]
        cos, sin = kwargs["position_embeddings"]
        attended = attend(layer.self_attn, normed, packed_rows, cos, sin, wanted)
        hidden_states = hidden_states[:, wanted] + attended  # [1, wanted, hidden]
        return hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))  # type: ignore[no-any-return]

    return forward
