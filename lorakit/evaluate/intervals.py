"""How far a mean over rows can be trusted: percentile bootstrap.

Source: Efron, 1979, "Bootstrap Methods: Another Look at the Jackknife".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lorakit.report import Interval

RESAMPLES = 1000
_SEED = 0
_BOUNDS = (2.5, 97.5)  # percentiles


def bootstrap_intervals(columns: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    """Return the mean of every column with its 95 % interval.

    Args:
        columns: Values by row, one or more; all columns are drawn alike, so that the difference of two columns is
            one more column.
    """
    values = np.array(list(columns.values()), dtype=np.float64)  # [columns, rows]
    rows = values.shape[1]
    generator = np.random.default_rng(_SEED)
    # One resample at a time: all of them together would take 8 kilobytes a row.
    means = np.array([values[:, generator.integers(rows, size=rows)].mean(axis=1) for _ in range(RESAMPLES)])
    lows, highs = np.percentile(means, _BOUNDS, axis=0)
    return {
        name: Interval(float(mean), float(low), float(high))
        for name, mean, low, high in zip(columns, values.mean(axis=1), lows, highs, strict=True)
    }
