"""``--task advise``: which learning rate suits these rows, found by a few short runs from the same start.

Rates around the published rule are tried with successive halving: all of them for a few steps, the better half for
twice as many. They share the loaded model; only the adapter is put back to its first values between them.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lorakit import console
from lorakit.config import Config
from lorakit.config.editing import with_values
from lorakit.evaluate.comparison import dataset_loss
from lorakit.invocation import command
from lorakit.model_config import quiet_libraries
from lorakit.runs import keep_foreign, open_folder, write_own_bytes, write_own_text
from lorakit.train.learning_rate import steps_of
from lorakit.train.planning import RunPlan, plan_run
from lorakit.train.preparing import Prepared, gather, prepare
from lorakit.train.step import TokenBudget, Trace
from lorakit.train.trainer import LoraTrainer

ADVISED_FILE = "advised.yaml"
PICTURE_FILE = "advice.png"
_FACTORS = (1 / 3, 1.0, 3.0)
_HIGHEST_RATE = 1e-2
_FIRST_SHARE = 0.04  # of a run's steps; all rungs together cost 0.04 * 3 + 0.08 * 2 = 0.28 of one run
_FEWEST_STEPS = 8
_KEPT = 2  # in the second rung
_HELD_BACK = 0.2  # of the rows, where none are there to validate on
_DIGITS = 2


@dataclass(frozen=True)
class Tried:
    """One short run.

    Attributes:
        rate: Peak learning rate.
        steps: That it was trained.
        loss: On the held-out rows after them, in nats a target token.
    """

    rate: float
    steps: int
    loss: float


def run(config: Config, config_file: str) -> int:
    """Try rates, show what came of them, and leave a configuration with the best one; nothing else is changed.

    Args:
        config: Of the run that is to be.
        config_file: Its text, with its comments, is what the advised one is made from.
    """
    quiet_libraries()
    folder = open_folder(Path(config.output_dir))
    file = Path(config_file)
    text = file.read_text(encoding="utf-8-sig") if file.is_file() else ""  # as it was when this task began
    if not config.has_validation:
        console.note(f"no rows to validate on: {_HELD_BACK:.0%} of the training rows are held back for this")
        config = config.model_copy(update={"validation_share": _HELD_BACK})
    gathered = gather(config, None)
    prepared = prepare(config, gathered)
    plan = plan_run(prepared, None)
    first = float(prepared.config.learning_rate)
    rates = [float(f"{min(first * factor, _HIGHEST_RATE):.{_DIGITS}g}") for factor in _FACTORS]
    steps = steps_of(prepared.config, len(prepared.data.train.encoded), 1)
    tried = _halved(prepared, plan, rates, steps)
    best = min((one for one in tried if one.steps == max(two.steps for two in tried)), key=lambda one: one.loss)
    _show(tried, best, steps, first)
    keep_foreign(folder, (PICTURE_FILE, ADVISED_FILE), console.note)
    write_own_bytes(folder, PICTURE_FILE, _drawn(tried, best))
    write_own_text(folder, ADVISED_FILE, with_values(text, {"learning_rate": best.rate}))
    console.note(
        f"written: {folder / ADVISED_FILE}, which is {config_file} with that rate, and {folder / PICTURE_FILE}"
    )
    console.suggest("train with it", command("train", "--config", str(folder / ADVISED_FILE)))
    return 0


def _halved(prepared: Prepared, plan: RunPlan, rates: Sequence[float], steps: int) -> list[Tried]:
    """Try all rates briefly, then the better ones for twice as long."""
    start = {
        name: value.detach().clone() for name, value in prepared.bundle.model.named_parameters() if value.requires_grad
    }
    brief = min(max(round(steps * _FIRST_SHARE), _FEWEST_STEPS), steps)
    rungs = ((brief, len(rates)), (min(2 * brief, steps), _KEPT))
    tried: list[Tried] = []
    left = list(dict.fromkeys(rates))
    for length, kept in rungs:
        before = {one.rate: one.loss for one in tried}
        left = sorted(left, key=lambda rate: before.get(rate, 0.0))[:kept]
        for rate in left:
            with console.progress(None, f"trying learning_rate {rate:g} for {length} steps"):
                tried.append(Tried(rate, length, _loss_after(prepared, plan, start, rate, length)))
    return tried


def _loss_after(prepared: Prepared, plan: RunPlan, start: dict[str, torch.Tensor], rate: float, steps: int) -> float:
    """Train from the start with a rate; return the loss on the held-out rows."""
    model, device = prepared.bundle.model, prepared.bundle.device
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in start:
                value.copy_(start[name])
    with tempfile.TemporaryDirectory() as aside:
        arguments = dataclasses.replace(
            prepared.arguments,
            output_dir=aside,
            learning_rate=rate,
            max_steps=steps,
            save_strategy="no",
            eval_strategy="no",
            load_best_model_at_end=False,
        )
        arguments._n_gpu = prepared.arguments._n_gpu
        trainer = LoraTrainer(
            model=model,
            args=arguments,
            train_sequences=prepared.data.train.encoded,
            budget=TokenBudget(plan.record, 0, 0),
            validation_sequences=None,
            trace=Trace("advice", None),
            callbacks=[],
        )
        trainer.train()
    assert prepared.data.validation is not None
    return dataset_loss(model, prepared.data.validation.encoded, device).mean


def _show(tried: Sequence[Tried], best: Tried, steps: int, first: float) -> None:
    cost = sum(one.steps for one in tried) / steps
    console.result(f"learning_rate {best.rate:g} is the best of those tried; the rule's own is {first:g}")
    lengths = list(dict.fromkeys(one.steps for one in tried))
    rows = [
        [f"{rate:g}", *(_loss_text(tried, rate, length) for length in lengths)]
        for rate in sorted({one.rate for one in tried})
    ]
    console.table("validation loss", ["learning_rate", *(f"after {length} steps" for length in lengths)], rows)
    console.result(f"all of it took {cost:.2f} of the steps of one training")


def _loss_text(tried: Sequence[Tried], rate: float, steps: int) -> str:
    return next((f"{one.loss:.4f}" for one in tried if (one.rate, one.steps) == (rate, steps)), "")


def _drawn(tried: Sequence[Tried], best: Tried) -> bytes:
    """Draw the losses over the rates, a line for each length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for length in dict.fromkeys(one.steps for one in tried):
        points = sorted((one.rate, one.loss) for one in tried if one.steps == length)
        axes.plot(*zip(*points, strict=True), marker="o", label=f"after {length} steps")
    axes.plot([best.rate], [best.loss], marker="*", markersize=16, linestyle="none", label="advised")
    axes.set(xscale="log", xlabel="learning_rate", ylabel="validation loss (nats per target token)")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()
