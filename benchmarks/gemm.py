"""Child program: the machine's bf16 matrix product, 512 x 2048 x 2048; prints the median in GFLOP/s."""

from __future__ import annotations

import statistics
import time

import torch

ROWS, INPUTS, OUTPUTS = 512, 2048, 2048
REPETITIONS = 60


def main() -> None:
    """Measure and print."""
    left = torch.randn(ROWS, INPUTS).bfloat16()
    right = torch.randn(INPUTS, OUTPUTS).bfloat16()
    seconds = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - start)
    print(2 * ROWS * INPUTS * OUTPUTS / statistics.median(seconds) / 1e9)


if __name__ == "__main__":
    main()
