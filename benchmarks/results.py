"""From the events of single runs to medians, and the checks that a tool must pass to be counted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs import Work
from measure import Child

FIRST_LOSS_TOLERANCE = 0.02  # same rows, same batch, untouched adapter: nothing but rounding may differ
PACKED_LOSS_TOLERANCE = 0.20  # other batches take another path
SPARE_TARGETS_A_ROW = 2  # tokens a template writes after the end of turn, such as a line break
_LAST_STEPS = 2


@dataclass(frozen=True)
class Run:
    """One finished run; losses in nats per target token, one for each step as are norms and seconds."""

    step_seconds: tuple[float, ...]
    losses: tuple[float, ...]
    grad_norms: tuple[float, ...]
    rows: int
    target_tokens: int
    peak_bytes: int
    first_step_seconds: float

    @property
    def training_seconds(self) -> float:
        """All steps together."""
        return sum(self.step_seconds)


@dataclass(frozen=True)
class Summary:
    """Medians over a tool's runs of one job."""

    samples_per_second: float
    samples_per_second_after_first_step: float
    target_tokens_per_second: float
    peak_gigabytes: float
    first_step_seconds: float
    first_loss: float
    mean_loss: float
    final_loss: float
    least_grad_norm: float
    rows: int
    target_tokens: int
    gemm_share: float
    runs: int


@dataclass(frozen=True)
class Outcome:
    """What became of a tool: its summary, and why it does not count (None where it does)."""

    summary: Summary | None
    fault: str | None


def read_run(child: Child) -> Run | str:
    """Turn a process's events into a run, or say why they are none."""
    if child.failure is not None:
        return f"failed: {child.failure}"
    steps = [event for event in child.events if event["event"] == "step"]
    if not steps or child.first_step_seconds is None:
        return "failed: it left no record of a step"
    data: Mapping[str, Any] | None = next((event for event in child.events if event["event"] == "data"), None)
    counted = [data] if data is not None else steps  # the peers count once, lorakit in every step
    return Run(
        step_seconds=tuple(step["step_seconds"] for step in steps),
        losses=tuple(step["loss"] for step in steps),
        grad_norms=tuple(step["grad_norm"] for step in steps),
        rows=sum(record["rows"] for record in counted),
        target_tokens=sum(record["target_tokens"] for record in counted),
        peak_bytes=child.peak_bytes,
        first_step_seconds=child.first_step_seconds,
    )


def summarise(runs: Sequence[Run], work: Work, rows_per_step: int, gemm_gflops: float) -> Summary:
    """Take medians over runs; work is what the job needs, whatever a tool has spent on padding."""

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    seconds = median([run.training_seconds for run in runs])
    after_first = [
        (work.rows - rows_of_first_step(run, work, rows_per_step)) / sum(run.step_seconds[1:])
        for run in runs
        if len(run.step_seconds) > 1
    ]
    return Summary(
        samples_per_second=work.rows / seconds,
        samples_per_second_after_first_step=median(after_first) if after_first else math.nan,
        target_tokens_per_second=work.target_tokens / seconds,
        peak_gigabytes=median([run.peak_bytes for run in runs]) / 1e9,
        first_step_seconds=median([run.first_step_seconds for run in runs]),
        first_loss=median([run.losses[0] for run in runs]),
        mean_loss=median([statistics.fmean(run.losses) for run in runs]),
        final_loss=median([statistics.fmean(run.losses[-_LAST_STEPS:]) for run in runs]),
        least_grad_norm=min(norm if math.isfinite(norm) else 0.0 for run in runs for norm in run.grad_norms),
        rows=min(run.rows for run in runs),
        target_tokens=min(run.target_tokens for run in runs),
        gemm_share=work.flop / seconds / (gemm_gflops * 1e9),
        runs=len(runs),
    )


def rows_of_first_step(run: Run, work: Work, rows_per_step: int) -> float:
    """Rows of the first step; where packing hides them, an equal share of all."""
    is_in_rows = len(run.step_seconds) == work.steps(rows_per_step)
    return min(rows_per_step, work.rows) if is_in_rows else work.rows / len(run.step_seconds)


def fault_of(summary: Summary, reference: Summary | None, work: Work, packs: bool) -> str | None:
    """Say why a tool does not count: it did not do the job's work, or did not learn as the reference did.

    Args:
        summary: Of the tool.
        reference: Of plain Trainer + PEFT; None where it did not run, which leaves losses unchecked.
        work: Of the job.
        packs: Whether the tool's batches differ from the reference's.
    """
    if not summary.least_grad_norm > 0:
        return "the gradient norm is zero or missing in some step"
    if not math.isfinite(summary.mean_loss):
        return "the loss is not finite"
    if summary.rows != work.rows:
        return f"trained {summary.rows} of {work.rows} rows"
    if abs(summary.target_tokens - work.target_tokens) > SPARE_TARGETS_A_ROW * work.rows:
        return f"trained {summary.target_tokens} target tokens, the answers have {work.target_tokens}"
    return None if reference is None else _loss_fault(summary, reference, packs)


def _loss_fault(summary: Summary, reference: Summary, packs: bool) -> str | None:
    name, found, wanted, tolerance = (
        ("mean loss", summary.mean_loss, reference.mean_loss, PACKED_LOSS_TOLERANCE)
        if packs
        else ("loss of the first step", summary.first_loss, reference.first_loss, FIRST_LOSS_TOLERANCE)
    )
    if abs(found - wanted) <= tolerance * abs(wanted):
        return None
    return f"{name} {found:.3f}, plain Trainer has {wanted:.3f}"
