"""Places of tokens for rotary embedding, pictures included (M-RoPE).

Source: Wang et al., 2024, "Qwen2-VL", arXiv 2409.12191, section 2.1: a text token has one place in all three rows
(time, height, width); the tokens of a picture share a time and spread over height and width; what follows begins after
the longer side.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lorakit.engine import Picture


def mrope_positions(tokens: int, placed: Iterable[tuple[int, Picture]]) -> torch.Tensor:
    """Return the three rows of places of one sequence, [3, tokens].

    Args:
        tokens: Of the sequence.
        placed: Each picture with the index of its first token, in order.
    """
    parts: list[torch.Tensor] = []
    index = place = 0
    for start, picture in placed:
        rows, columns = picture.token_rows, picture.token_columns
        parts.append(_text(place, start - index))
        place += start - index
        height = torch.arange(rows).repeat_interleave(columns)
        width = torch.arange(columns).repeat(rows)
        parts.append(torch.stack([torch.zeros_like(height), height, width]) + place)
        place += max(rows, columns)
        index = start + picture.tokens
    parts.append(_text(place, tokens - index))
    return torch.cat(parts, dim=1)


def _text(place: int, tokens: int) -> torch.Tensor:
    return torch.arange(place, place + tokens).expand(3, -1)
