"""``--task advise``: which learning rate suits these rows, found by a few short runs from the same start.

Rates around the published rule are tried; see `lorakit.train.planning.short_runs`.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit import console
from lorakit.config import Config
from lorakit.config.editing import with_values
from lorakit.evaluate.forgetting import BaseAnswers, advise_replay, answers_of_base
from lorakit.inference import assistant_for
from lorakit.invocation import command
from lorakit.model_config import quiet_libraries
from lorakit.runs import keep_foreign, open_folder, write_own_bytes, write_own_text
from lorakit.train.planning.plan import plan_run
from lorakit.train.planning.short_runs import ShortRuns, Tried, best_of, halved, rate_for
from lorakit.train.planning.trial import leaving_no_trace
from lorakit.train.setup.learning_rate import steps_of
from lorakit.train.setup.preparing import Gathered, Prepared, gather, prepare

ADVISED_FILE = "advised.yaml"
PICTURE_FILE = "advice.png"
_FACTORS = (1 / 3, 1.0, 3.0)
_HIGHEST_RATE = 1e-2
_HELD_BACK = 0.2  # of the rows, where none are there to validate on
_DIGITS = 2


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
    found = _rates_tried(config, gathered)
    best = best_of(found.tried)
    advised: dict[str, float] = {"learning_rate": rate_for(best, found.steps)}
    _show(found, best, advised["learning_rate"])
    if best.forgotten is not None and not config.replay:
        console.result(
            f"after {best.steps} steps the base's answers to general questions are {best.forgotten:.2f} nats a token "
            "less likely"
        )
        advise_replay(best.forgotten, len(gathered.data.train.examples))
    if config.advise_ranks:
        losses = {config.lora_r: best.loss} | _ranks_tried(config, gathered, best)
        advised["lora_r"] = min(losses, key=lambda rank: losses[rank])
        rows = [[str(rank), f"{losses[rank]:.4f}"] for rank in sorted(losses)]
        console.table("validation loss", ["lora_r", f"after {best.steps} steps"], rows)
    keep_foreign(folder, (PICTURE_FILE, ADVISED_FILE), console.note)
    write_own_bytes(folder, PICTURE_FILE, _drawn(found.tried, best))
    write_own_text(folder, ADVISED_FILE, with_values(text, advised))
    console.note(
        f"written: {folder / ADVISED_FILE}, which is {config_file} with that rate, and {folder / PICTURE_FILE}"
    )
    console.suggest("train with it", command("train", "--config", str(folder / ADVISED_FILE)))
    return 0


@dataclass(frozen=True)
class _Found:
    """What was tried, for a run of so many steps, around the rule's rate."""

    tried: list[Tried]
    steps: int
    rule: float


def _rates_tried(config: Config, gathered: Gathered) -> _Found:
    prepared = prepare(config, gathered)
    rule = float(prepared.config.learning_rate)
    steps = steps_of(prepared.config, len(prepared.data.train.encoded), 1)
    runs = ShortRuns(prepared, plan_run(prepared, None), _general(prepared))
    return _Found(halved(runs, rates_around(rule), steps), steps, rule)


def _ranks_tried(config: Config, gathered: Gathered, best: Tried) -> dict[int, float]:
    """Try other ranks with the best rate, each on a model that is loaded anew; return their losses."""
    losses = {}
    for rank in dict.fromkeys(config.advise_ranks):
        if rank != config.lora_r:
            gc.collect()  # the model before must be gone
            with console.progress(None, f"trying lora_r {rank} for {best.steps} steps"):
                other = prepare(config.model_copy(update={"lora_r": rank, "learning_rate": best.rate}), gathered)
                losses[rank] = ShortRuns(other, plan_run(other, None)).loss_after(best.rate, best.steps)
                del other
    return losses


def _general(prepared: Prepared) -> BaseAnswers | None:
    """Ask the base general questions, from whose answers it can be told what a run forgets."""
    model = prepared.bundle.model
    with leaving_no_trace(model, prepared.bundle.device), console.progress(None, "asking general questions"):
        model.eval()
        assistant = assistant_for(prepared.bundle, prepared.chat_format, prepared.config, prepared.record)
        return answers_of_base(assistant, prepared.config)


def rates_around(first: float) -> list[float]:
    """Return the rates that are tried: a third of the one to begin with, itself, and three times as much."""
    rates = [float(f"{min(first * factor, _HIGHEST_RATE):.{_DIGITS}g}") for factor in _FACTORS]
    return list(dict.fromkeys(rates))


def _show(found: _Found, best: Tried, advised: float) -> None:
    tried, steps = found.tried, found.steps
    cost = sum(one.steps for one in tried) / steps
    console.result(f"learning_rate {advised:g} is advised; the rule's own is {found.rule:g}")
    console.result(
        f"{best.rate:g} is the best of those tried, for {best.steps} steps; the best rate for {steps} is lower by the "
        "square root"
        if best.steps < steps
        else f"{best.rate:g} is the best of those tried"
    )
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
