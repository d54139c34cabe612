"""Seeds for random numbers that belong to something: a row, a step, a layer."""

from __future__ import annotations

import hashlib
import struct


def seed_of(*numbers: int) -> int:
    """Mix whole numbers of up to 64 bits into a seed of 63, whose every bit depends on all of them.

    PyTorch's generator on a CPU reads 32 bits of a seed only, so that numbers side by side would not do.
    """
    packed = struct.pack(f"<{len(numbers)}Q", *(number % 2**64 for number in numbers))
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1
