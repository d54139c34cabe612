"""loss_curve.png, drawn from nothing but the run's records."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from lorakit import console
from lorakit.runs import CURVE_FILE, EvaluationRecord, StepRecord, read_records, write_own_bytes

_MOST_EPOCHS_MARKED = 40
_ROUNDING = 1e-6  # of an epoch: the step that ends one has its number
# Where the axes lie in the picture, from 0 to 1: to let matplotlib find out takes as long as drawing.
_PLACE = {"left": 0.08, "right": 0.98, "bottom": 0.11, "top": 0.93}


def leave_loss_curve(folder: Path, base_loss: float | None = None) -> None:
    """Draw the curve; where that fails, say so, and let nothing else suffer from it."""
    try:
        draw_loss_curve(folder, base_loss)
    except Exception as error:  # fonts, back ends and caches of the drawing library
        console.warn(f"{CURVE_FILE} could not be drawn ({type(error).__name__}: {error})")


def draw_loss_curve(folder: Path, base_loss: float | None = None) -> Path:
    """Draw training and validation loss over the steps of a run.

    Args:
        folder: Of the run, with its events.jsonl.
        base_loss: Of the base model on the rows that are validated, where it is known.

    Returns:
        The picture's file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, no display needed
    from matplotlib.figure import Figure

    records = list(read_records(folder))
    steps = [record for record in records if isinstance(record, StepRecord)]
    validations = [record for record in records if isinstance(record, EvaluationRecord)]
    figure = Figure(figsize=(8, 5), dpi=120)
    figure.subplots_adjust(**_PLACE)
    axes = figure.add_subplot()
    axes.plot([record.step for record in steps], [record.loss for record in steps], label="training", linewidth=1)
    if validations:
        axes.plot(
            [record.step for record in validations],
            [record.loss for record in validations],
            label="validation",
            marker="o",
        )
    for step in _ends_of_epochs(steps):
        axes.axvline(step, color="gray", linewidth=0.6, linestyle=":", label="_epoch")
    if base_loss is not None and math.isfinite(base_loss):
        axes.axhline(base_loss, color="gray", linewidth=1, linestyle="--", label="base model, validation")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per target token)", title="loss")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_own_bytes(folder, CURVE_FILE, picture.getvalue())
    return folder / CURVE_FILE


def _ends_of_epochs(steps: Sequence[StepRecord]) -> list[int]:
    """Return the last step of each epoch, or nothing where there are so many that they would hide the curve."""
    ends = [
        one.step for one, following in pairwise(steps) if int(following.epoch - _ROUNDING) > int(one.epoch - _ROUNDING)
    ]
    return ends if len(ends) <= _MOST_EPOCHS_MARKED else []
