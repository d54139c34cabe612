"""Child program: the machine's fastest matrix product, 512 x 2048 x 2048; prints its number format and GFLOP/s.

A processor without bf16 instructions computes bf16 a hundred times slower than float32, so both are measured.
"""

from __future__ import annotations

import json
import statistics
import time

import torch

ROWS, INPUTS, OUTPUTS = 512, 2048, 2048
REPETITIONS = 40
_LONGEST_SECONDS = 2.0  # of one number format


def gflops(dtype: torch.dtype, rows: int, repetitions: int) -> float:
    """Measure the median speed of a product."""
    left, right = torch.randn(rows, INPUTS).to(dtype), torch.randn(INPUTS, OUTPUTS).to(dtype)
    seconds: list[float] = []
    while len(seconds) < repetitions and sum(seconds) < _LONGEST_SECONDS:
        start = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - start)
    return 2 * rows * INPUTS * OUTPUTS / statistics.median(seconds) / 1e9


def main() -> None:
    """Measure and print; a few rows show first whether a format is worth the whole measurement."""
    formats = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    fastest = max(formats, key=lambda name: gflops(formats[name], rows=32, repetitions=5))
    print(json.dumps({"dtype": fastest, "gflops": gflops(formats[fastest], ROWS, REPETITIONS)}))


if __name__ == "__main__":
    main()
