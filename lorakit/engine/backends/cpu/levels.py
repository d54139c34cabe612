"""The sets of instructions that kernels are compiled for, and which of them a processor has."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from lorakit.engine.runtime import processor

# For tests and measurements: what kernels are compiled for instead of this very processor.
VARIABLE = "LORAKIT_KERNELS_MARCH"


class NoKernelsError(Exception):
    """There are no kernels here; says why. Caught within the engine."""


@dataclass(frozen=True)
class Level:
    """A set of instructions.

    Attributes:
        name: As psABI has it, with what goes beyond after a plus sign.
        machine: Which processors have it, as Python names them.
        flags: What compilers call it.
        needs: What a processor must have, in Linux's names.
    """

    name: str
    machine: str
    flags: tuple[str, ...]
    needs: frozenset[str]


_V2 = frozenset({"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"avx", "avx2", "bmi2", "f16c", "fma", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_V4_BF16 = _V4 | {"avx512_bf16", "avx512_vnni"}
_V4_BF16_FLAGS = ("-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni")
_ARM_BF16 = frozenset({"asimd", "asimddp", "bf16", "i8mm"})
# The best first. Those who have float16 are Intel's, see kernel_build.py.
LEVELS = (
    Level("x86-64-v4+fp16", "x86_64", (*_V4_BF16_FLAGS, "-mavx512fp16", "-DONE_BY_ONE"), _V4_BF16 | {"avx512_fp16"}),
    Level("x86-64-v4+bf16", "x86_64", _V4_BF16_FLAGS, _V4_BF16),
    Level("x86-64-v4", "x86_64", ("-march=x86-64-v4",), _V4),
    Level("x86-64-v3+vnni", "x86_64", ("-march=x86-64-v3", "-mavxvnni"), _V3 | {"avx_vnni"}),
    Level("x86-64-v3", "x86_64", ("-march=x86-64-v3",), _V3),
    Level("x86-64-v2", "x86_64", ("-march=x86-64-v2",), _V2),
    Level("aarch64+bf16", "aarch64", ("-march=armv8.2-a+fp16+dotprod+i8mm+bf16",), _ARM_BF16),
    Level("aarch64", "aarch64", ("-march=armv8-a",), frozenset({"asimd"})),
)
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # other names of the same


def machine() -> str:
    """Return the name of this machine's kind of processor."""
    name = platform.machine().lower()
    return _MACHINES.get(name, name)


def levels_of(kind: str) -> list[Level]:
    """Return all levels of a kind of processor, the best first."""
    return [level for level in LEVELS if level.machine == kind]


def levels_here() -> list[Level]:
    """Return the levels that this machine's processor has, the best first."""
    has = processor.features()
    return [level for level in levels_of(machine()) if level.needs <= has]


def wished_level() -> Level:
    """Return the level that kernels are compiled for: this very processor's, or the one that the variable names.

    Raises:
        NoKernelsError: The variable names none, or one that this processor lacks.
    """
    name = os.environ.get(VARIABLE, "native")
    if name == "native":
        # On ARM -march=native is understood by few compilers.
        flag = "-mcpu=native" if machine() == "aarch64" else "-march=native"
        return Level("native", machine(), (flag,), processor.features())
    for level in levels_here():
        if level.name == name:
            return level
    known = ", ".join(level.name for level in levels_here())
    raise NoKernelsError(f"{VARIABLE} is {name}, and this processor has native, {known}")
