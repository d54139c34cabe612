"""Frozen matrices as decoding.cpp reads them: as they are, or packed into fewer bits.

Packed are blocks of 16 outputs and 32 inputs, so that one register holds four inputs of each output, and a block's
sums need no adding up across a register. 8 bits: w is about scale q, q from -127 to 127. 4 bits: w is about
least + scale q, q from 0 to 15. Scales are bfloat16 numbers, and q is chosen for the rounded scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

UNIT, GROUP = 16, 32  # outputs of a block; inputs with a scale of their own
_FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_BITS8, _BITS4 = 3, 4


@dataclass(frozen=True)
class Held:
    """A matrix.

    Attributes:
        kind: Of its numbers, as in decoding.cpp.
        weight: [outputs, inputs], or packed.
        scale: Of packed numbers: [units, groups, 16], of 4 bits [units, groups, 2, 16].
    """

    kind: int
    weight: torch.Tensor
    scale: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """What one token reads of it."""
        return int(self.weight.nbytes) + (0 if self.scale is None else int(self.scale.nbytes))


def held_as_is(weight: torch.Tensor) -> Held | None:
    """Hold a matrix in its own memory; None where its format or layout is another."""
    kind = _FORMATS.get(weight.dtype)
    return Held(kind, weight) if kind is not None and weight.is_contiguous() else None


def packed8(weight: torch.Tensor) -> Held:
    """Round a matrix [outputs, inputs] to 8 bits."""
    blocks = _blocks(weight)  # [units, 16, groups, 32]
    scale = _rounded_up(blocks.abs().amax(-1) / 127)  # [units, 16, groups]
    numbers = blocks.div_(_divisor(scale)).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
    units, _, groups, _ = numbers.shape
    by_fours = numbers.view(units, UNIT, groups, GROUP // 4, 4).permute(0, 2, 3, 1, 4)
    return Held(_BITS8, by_fours.contiguous(), scale.transpose(1, 2).contiguous())


def packed4(weight: torch.Tensor) -> Held:
    """Round a matrix [outputs, inputs] to 4 bits."""
    blocks = _blocks(weight)  # [units, 16, groups, 32]
    least = blocks.amin(-1).bfloat16()  # [units, 16, groups]
    scale = ((blocks.amax(-1) - least.float()) / 15).bfloat16()
    numbers = blocks.sub_(least.float()[..., None]).div_(_divisor(scale)).round_().clamp_(0, 15).to(torch.uint8)
    units, _, groups, _ = numbers.shape
    low, high = numbers.view(units, UNIT, groups, GROUP // 8, 2, 4).unbind(-2)  # each [units, 16, groups, 4, 4]
    both = (low | (high << 4)).permute(0, 2, 3, 1, 4)
    return Held(_BITS4, both.contiguous(), torch.stack([scale, least], -2).permute(0, 3, 2, 1).contiguous())


def _four_bits(place: str, weight: torch.Tensor) -> Held:
    return packed8(weight) if place == "head" else packed4(weight)


# What `Decoder` makes of the weights; None leaves them as they are. The output projection chooses between all tokens,
# and is worth 8 bits.
PACKINGS: dict[str, Callable[[str, torch.Tensor], Held] | None] = {
    "same": None,
    "int8": lambda place, weight: packed8(weight),
    "int4": _four_bits,
}


def unpacked(held: Held, outputs: int, inputs: int) -> torch.Tensor:
    """Return the numbers that a matrix stands for, [outputs, inputs] in float32."""
    if held.scale is None:
        return held.weight.float()
    numbers = held.weight.permute(0, 3, 1, 2, 4)  # [units, 16, groups, 8 or 4, 4]
    if held.kind == _BITS8:
        blocks = (numbers.float() - 128).flatten(-2) * held.scale.transpose(1, 2).float()[..., None]
    else:
        low_and_high = torch.stack([numbers & 15, numbers >> 4], -2).flatten(-3)  # [units, 16, groups, 32]
        scale, least = held.scale.permute(2, 0, 3, 1).float()[..., None]
        blocks = low_and_high * scale + least
    return blocks.reshape(blocks.shape[0] * UNIT, -1)[:outputs, :inputs].contiguous()


def _blocks(weight: torch.Tensor) -> torch.Tensor:
    """Fill a matrix up with zeros, in float32: [units, 16, groups, 32]."""
    outputs, inputs = weight.shape
    whole = pad(weight.float(), (0, -inputs % GROUP, 0, -outputs % UNIT))
    whole = whole.clone() if whole.data_ptr() == weight.data_ptr() else whole
    return whole.view(-1, UNIT, whole.shape[1] // GROUP, GROUP)


def _rounded_up(scale: torch.Tensor) -> torch.Tensor:
    """Return bfloat16 numbers that are no smaller."""
    near = scale.bfloat16()
    next_up = (near.view(torch.int16) + 1).view(torch.bfloat16)
    return torch.where(near.float() < scale, next_up, near)


def _divisor(scale: torch.Tensor) -> torch.Tensor:
    wide = scale.float()
    return torch.where(wide == 0, 1.0, wide)[..., None]
