"""Run the engine's tests as on other processors: instruction sets capped, another compiler, one thread, an emulator.

    python scripts/test_processors.py [name of a way ...]

Without names all of them. A way that this machine cannot go is an error, so that nothing is left out in silence;
``--skip-missing`` says what is left out instead. ``--kernels`` runs the tests of kernels alone, in seconds a way.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.engine.backends.cpu.levels import levels_here

ROOT = Path(__file__).parents[1]
ENGINE = ("tests/test_tolerances.py", "tests/engine")
# What calls kernels one by one, each of which an emulator can be handed.
CALLS = tuple(
    f"tests/engine/{name}.py"
    for name in (
        "backends/cpu/test_kernels",
        "backends/cpu/test_matmul",
        "backends/cpu/test_half_products",
        "ops/test_residual_blocks",
    )
)
KERNELS = (*CALLS, "tests/engine/decoder/test_decoder.py")


@dataclass(frozen=True)
class Way:
    """How tests are run once.

    Attributes:
        environment: The variables that make it so.
        tests: Which.
        level: What the processor must have, of the levels of kernels.
        programs: What must be installed, and the Debian packages that have it.
    """

    environment: dict[str, str]
    tests: tuple[str, ...] = ENGINE
    level: str = "native"
    programs: tuple[tuple[str, str], ...] = ()

    def lacking(self) -> list[str]:
        """Say what this machine has not got for it."""
        levels = {"native", *(level.name for level in levels_here())}
        found = [] if self.level in levels else [f"a processor with {self.level}"]
        return found + [f"{name} (apt install {package})" for name, package in self.programs if not shutil.which(name)]


def _capped(level: str, pytorch: str, onednn: str, mkl: str, mkl_branch: str) -> Way:
    """All that computes with no more than a level of instructions: PyTorch, its libraries, and lorakit's kernels."""
    variables = {"ATEN_CPU_CAPABILITY": pytorch, "ONEDNN_MAX_CPU_ISA": onednn, "LORAKIT_KERNELS_MARCH": level}
    return Way(variables | {"MKL_ENABLE_INSTRUCTIONS": mkl, "MKL_CBWR": mkl_branch}, level=level)


def _library(name: str) -> str:
    """Return the path of a library of g++; nothing where there is no g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        return ""
    return subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


# Addresses and undefined behaviour are watched, and the first fault ends the process. Python's own memory is not.
SANITIZED = {
    "CXX": "g++ -fsanitize=address,undefined -fno-sanitize-recover=undefined",
    "LD_PRELOAD": f"{_library('libasan.so')} {_library('libubsan.so')}",
    "ASAN_OPTIONS": "detect_leaks=0",
}
# A sanitizer ends a process that asks for more memory than there is.
_OUT_OF_MEMORY = f"{CALLS[0]}::test_a_lack_of_memory_in_attention_is_one_that_training_understands"
WAYS = {
    "x86-64-v2": _capped("x86-64-v2", "default", "SSE41", "SSE4_2", "COMPATIBLE"),
    "x86-64-v3": _capped("x86-64-v3", "avx2", "AVX2", "AVX2", "AVX2"),
    "x86-64-v4": _capped("x86-64-v4", "avx512", "AVX512_CORE", "AVX512", "AVX512"),
    "clang": Way({"CXX": "clang++"}, programs=(("clang++", "clang"),)),
    "one-thread": Way({"LORAKIT_KERNELS_SINGLE": "1"}),
    "sanitizers": Way(SANITIZED, (*CALLS, "--deselect", _OUT_OF_MEMORY), programs=(("g++", "g++"),)),
    "aarch64": Way(
        {"LORAKIT_TEST_EMULATED": "aarch64"},
        CALLS,
        programs=(("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"), ("qemu-aarch64", "qemu-user")),
    ),
}


def _run(name: str, way: Way, tests: Sequence[str], more: Sequence[str]) -> bool:
    print(f"\n{name}: {' '.join(f'{key}={value}' for key, value in way.environment.items())}", flush=True)
    command = [sys.executable, "-m", "pytest", "-m", "not slow", *tests, *more]
    return subprocess.run(command, cwd=ROOT, env=os.environ | way.environment, check=False).returncode == 0


def main() -> int:
    """Run the ways, and return 1 if tests failed in any, 2 if one cannot be gone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", choices=[*WAYS, []], help=f"of {', '.join(WAYS)}")
    parser.add_argument("--skip-missing", action="store_true", help="leave out what this machine cannot do")
    parser.add_argument("--kernels", action="store_true", help="the tests of kernels alone")
    parser.add_argument("--pytest", default="", help="further arguments for pytest, in one string")
    arguments = parser.parse_args()
    ways = {name: WAYS[name] for name in arguments.ways or WAYS}
    lacking = {name: way.lacking() for name, way in ways.items() if way.lacking()}
    for name, what in lacking.items():
        print(f"{name}: needs {', '.join(what)}")
    if lacking and not arguments.skip_missing:
        return 2
    more = arguments.pytest.split()
    failed = []
    for name, way in ways.items():
        if name not in lacking and not _run(
            name, way, KERNELS if arguments.kernels and way.tests is ENGINE else way.tests, more
        ):
            failed.append(name)
    print("\nfailed: " + ", ".join(failed) if failed else "\nall as it should be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
