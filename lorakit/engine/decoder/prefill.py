"""Prompts through a model at the speed of its matrix products, their keys and values left for decoding.

With weights packed into fewer bits, prompts are read in these too, so that each token's numbers are its text's own.

All prompts lie end to end in one packed row without padding; each attends to what its slot of the cache knows already,
and to itself. What the cache knows of an earlier question, such as the system prompt, is not computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from lorakit.engine.decoder.coverage import angles, window_of
from lorakit.engine.decoder.decoder import Decoder, KeyValueCache
from lorakit.engine.layers.attach import backend_of
from lorakit.engine.layers.attention_layer import split_heads
from lorakit.engine.layers.lora_linear import apply_linears
from lorakit.engine.ops.pointwise import rope

# Up to so many tokens decoding.cpp is faster than PyTorch's products with all that lies between them. Packed weights it
# reads for all of them: an answer would else depend on whether the prompts beside it make the batch a large one.
_FEW_TOKENS = 32


@dataclass(frozen=True)
class Part:
    """Tokens of one text that are to be computed.

    Attributes:
        slot: Of the cache.
        start: How many tokens of the text the cache knows.
        ids: Those that follow.
    """

    slot: int
    start: int
    ids: Sequence[int]

    @property
    def end(self) -> int:
        """How many tokens the cache will know."""
        return self.start + len(self.ids)


def begin(decoder: Decoder, prompts: Sequence[tuple[int, Sequence[int]]]) -> torch.Tensor:
    """Let texts begin with prompts, computing what is new in them only.

    Args:
        decoder: Opened for as many texts.
        prompts: A slot of its cache, and the prompt's tokens, for each.

    Returns:
        The logits after each prompt, [prompts, vocabulary] in float32.
    """
    (first, longest), *others = prompts
    if others:  # what all of them share is computed once, in the first one's slot
        shared = min(_common(longest, prompt) for _, prompt in others)
        _reuse(decoder, first, longest)
        if shared - len(decoder.known[first]) > 1:
            _compute(decoder, [Part(first, len(decoder.known[first]), longest[len(decoder.known[first]) : shared])])
            decoder.known[first] = list(longest[:shared])
    for slot, prompt in prompts:
        _reuse(decoder, slot, prompt)
    known = decoder.known
    logits = _compute(decoder, [Part(slot, len(known[slot]), prompt[len(known[slot]) :]) for slot, prompt in prompts])
    for slot, prompt in prompts:
        decoder.known[slot] = list(prompt)
    return logits


def _reuse(decoder: Decoder, slot: int, prompt: Sequence[int]) -> None:
    """Let a slot know of its prompt what any slot knows, save the last token, whose logits are wanted."""
    assert decoder.cache is not None  # opened
    known = decoder.known
    lengths = [min(_common(tokens, prompt), len(prompt) - 1) for tokens in known]
    best = max(range(len(known)), key=lambda other: (lengths[other], other == slot))
    known[slot], source = [], known[best]
    if best != slot:
        decoder.cache.copy(best, slot, lengths[best])
    known[slot] = source[: lengths[best]]


def _compute(decoder: Decoder, parts: Sequence[Part]) -> torch.Tensor:
    assert decoder.cache is not None  # opened
    if not decoder.is_packed and sum(len(part.ids) for part in parts) > _FEW_TOKENS:
        return prefill(decoder.base, decoder.cache, parts)
    places = [(part.slot, part.start + at, token) for part in parts for at, token in enumerate(part.ids)]
    slots, positions, ids = zip(*places, strict=True)
    lengths = torch.tensor([len(part.ids) for part in parts])
    logits = decoder.step(ids, slots, positions, (lengths.cumsum(0) - 1).tolist(), wants_logits=True)[1]
    assert logits is not None  # wanted
    return logits


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the tokens with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def prefill(base: Any, cache: KeyValueCache, parts: Sequence[Part]) -> torch.Tensor:
    """Compute parts of texts, and keep their keys and values.

    Args:
        base: The model, for which `decoder_fault` is None, out of PEFT's wrapper.
        cache: Knows what comes before them, and will know them.
        parts: Of different texts.

    Returns:
        The logits after the last token of each, [parts, vocabulary] in float32.
    """
    decoder, backend = base.get_decoder(), backend_of(base)
    lengths = [len(part.ids) for part in parts]
    with torch.inference_mode():
        ids = torch.tensor([token for part in parts for token in part.ids])  # [tokens]
        positions = torch.cat([torch.arange(part.start, part.end) for part in parts])
        x = base.get_input_embeddings()(ids[None])  # [1, tokens, hidden]
        cos, sin = (table[None] for table in angles(decoder, positions, x.dtype))  # each [1, tokens, head size]
        for number, layer in enumerate(decoder.layers):
            attention = layer.self_attn
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            query, key, value = apply_linears(layer.input_layernorm(x), projections, backend)
            query = rope(split_heads(attention, query, "q_norm"), cos, sin, backend)  # [1, heads, tokens, head size]
            key = rope(split_heads(attention, key, "k_norm"), cos, sin, backend)
            value = split_heads(attention, value)
            attended, at = [], 0
            for part, length in zip(parts, lengths, strict=True):
                taken = slice(at, at + length)
                cache.keys[number, part.slot, :, part.start : part.end] = key[0, :, taken]
                cache.values[number, part.slot, :, part.start : part.end] = value[0, :, taken]
                attended.append(_attend(query[:, :, taken], cache, number, part, attention))
                at += length
            output = torch.cat(attended, dim=2).transpose(1, 2).flatten(2)  # [1, tokens, heads * head size]
            x = x + attention.o_proj(output)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        last = torch.tensor(lengths).cumsum(0) - 1
        return base.get_output_embeddings()(decoder.norm(x[:, last]))[0].float()  # type: ignore[no-any-return]


def _attend(query: torch.Tensor, cache: KeyValueCache, number: int, part: Part, attention: Any) -> torch.Tensor:
    """Return [1, heads, tokens, head size] for the queries of one part."""
    key, value = (tensor[number, part.slot, :, : part.end][None] for tensor in (cache.keys, cache.values))
    window, mask = window_of(attention), None
    if part.start or window < part.end:
        asking = torch.arange(part.start, part.end)[:, None]
        seen = torch.arange(part.end)[None]
        mask = (seen <= asking) & (seen > asking - window)  # [tokens, tokens known]
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=attention.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
