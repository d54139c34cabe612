"""matmul.h on every level of processors that this one has, and on another kind in an emulator (matmul_check.cpp)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from emulated import COMPILER, EMULATOR

from lorakit.engine.backends.cpu.build import FLOAT32_BLOCKS, FOLDER
from lorakit.engine.backends.cpu.levels import LEVELS, levels_here

CHECK = Path(__file__).parents[3] / "matmul_check.cpp"
EMULATED = os.environ.get("LORAKIT_TEST_EMULATED")
HERE = [level for level in LEVELS if level.name == EMULATED] if EMULATED else levels_here()
BEST = HERE[:1] + [level for level in HERE[1:] if level.name in {"x86-64-v2", "x86-64-v3", "x86-64-v4"}]


def formats(level):
    return ("float", "BFloat16") if "bf16" in level.name and not EMULATED else ("float",)


@pytest.mark.every(8)
@pytest.mark.parametrize(
    ("level", "number"),
    [(level, number) for level in BEST for number in formats(level)],
    ids=lambda one: getattr(one, "name", one),
)
def test_sums_are_within_their_roundings(level, number, tmp_path):
    compiler = COMPILER if EMULATED else next(filter(None, map(shutil.which, ("g++", "clang++"))))
    flags = [flag for flag in FLOAT32_BLOCKS.flags(level) if flag not in ("-shared", "-fPIC", "-DFORMAT=float")]
    program = tmp_path / "check"
    subprocess.run(
        [compiler, *flags, f"-DFORMAT={number}", f"-I{FOLDER}", "-static", str(CHECK), "-o", str(program)], check=True
    )
    ran = subprocess.run([*([EMULATOR] if EMULATED else []), str(program)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
