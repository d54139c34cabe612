"""What several processes have learnt, held against what one has."""

import torch
from trained import ROWS, adapter_weights, recorded

from lorakit.runs import StepRecord

SEVEN = [*ROWS, *({"text": row["text"] + "！", "target": row["target"]} for row in ROWS[:2])]
ROUNDING = {"rtol": 1e-4, "atol": 1e-6}  # sums in another order


def trained(lab, words, **order):
    """Train to the end in an empty folder, and return the adapter and the steps."""
    outcome = lab.train(words, order.pop("patches", {}), **order)
    assert set(outcome.codes) == {0}, outcome.errors
    return adapter_weights(lab.run), recorded(lab.run, StepRecord), outcome


def assert_same(first, second, **tolerance):
    assert set(first) == set(second)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
