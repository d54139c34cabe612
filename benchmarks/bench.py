"""Measure lorakit against the tools that do the same: ``make bench``, or ``python benchmarks/bench.py --help``."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import answers
from jobs import JOBS, ROOT, Job, Work
from machine import commit, machine
from measure import beside, run_child
from peers import NotInstalledError, cache_folder, python_of, reason_in, versions_of
from report import as_text, page, read_history, table
from results import Outcome, Run, fault_of, read_run, summarise
from tools import OURS, REFERENCE, TOOLS, Tool, command, specification

_FOLDER = Path(__file__).parent
HISTORY_FILE = _FOLDER / "history.jsonl"
PAGE_FILE = ROOT / "docs" / "performance.md"
_KERNELS_VARIABLE = "LORAKIT_KERNELS_MARCH"  # which instructions lorakit's kernels are held to
_USUAL_TOOLS = (OURS, "lorakit-float32", "lorakit-beside", REFERENCE, "trl", "trl-bf16", "trl-packing", "llamafactory")


@dataclass(frozen=True)
class Prepared:
    """A job with everything its runs need."""

    job: Job
    work: Work
    model_folder: str
    rows_file: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, append to history.jsonl, and write docs/performance.md where nothing was left out."""
    options = _options(argv)
    trains = any(name in JOBS for name in options.jobs)
    tools = options.tools if trains else []
    pythons: dict[str, Path | str] = {name: _python_or_reason(TOOLS[name]) for name in tools}
    common = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "is_complete": _is_complete(options),
        **commit(),
        "machine": machine(),
        "repeats": options.repeats,
    }
    folder = Path(tempfile.mkdtemp(prefix="runs-", dir=cache_folder()))
    try:
        if answers.NAME in options.jobs:
            kernels = {"kernels": os.environ.get(_KERNELS_VARIABLE, "native")}
            lines = answers.measure(options.repeats, common | kernels, options.answer_models)
            for model, title in answers.MODELS.items():
                of_model = [line for line in lines if line["model"] == model]
                if not of_model:
                    continue
                print(f"\n{answers.NAME}: {title}\n{as_text(answers.table(of_model))}\n", flush=True)
            _keep(lines)
        for name in [name for name in options.jobs if name in JOBS]:
            lines = _measure_job(JOBS[name], options, pythons, folder, common)
            print(f"\n{name}: {JOBS[name].title}\n{as_text(table(lines))}\n", flush=True)
            _keep(lines)
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if _is_complete(options):
        PAGE_FILE.write_text(page(read_history(HISTORY_FILE)), encoding="utf-8")
        print(f"written: {PAGE_FILE.relative_to(ROOT)}")
    return 0


def _keep(lines: Sequence[Mapping[str, Any]]) -> None:
    with open(HISTORY_FILE, "a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    jobs = [*JOBS, answers.NAME]
    parser.add_argument("--jobs", nargs="+", choices=jobs, default=jobs, help="which jobs (all)")
    parser.add_argument(
        "--tools", nargs="+", choices=list(TOOLS), default=list(_USUAL_TOOLS), help=f"which ({' '.join(_USUAL_TOOLS)})"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of every tool, in turns (3)")
    models = list(answers.MODELS)
    parser.add_argument(
        "--answer-models", nargs="+", choices=models, default=models, help=f"of job {answers.NAME}, which (all)"
    )
    parser.add_argument("--rows", type=int, help="only so many rows, to try it out; docs/performance.md stays as it is")
    parser.add_argument("--keep", action="store_true", help="keep specifications, records and logs of the runs")
    return parser.parse_args(argv)


def _is_complete(options: argparse.Namespace) -> bool:
    """Whether the run may stand on the page: all rows, all usual tools."""
    trains = any(name in JOBS for name in options.jobs)  # answers are measured with all tools always
    return not trains or (options.rows is None and set(_USUAL_TOOLS) <= set(options.tools))


def _python_or_reason(tool: Tool) -> Path | str:
    try:
        return python_of(tool.environment)
    except NotInstalledError as error:
        return f"not installed: {error}"


def _measure_job(
    job: Job, options: argparse.Namespace, pythons: Mapping[str, Path | str], folder: Path, common: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Measure every tool on a job and return its lines of history."""
    prepared = _prepare(job, options.rows, folder)
    gemm_gflops: list[float] = []
    pythons = {name: python for name, python in pythons.items() if TOOLS[name].takes(job)}
    runs: dict[str, list[Run | str]] = {name: [] for name in pythons}
    for repeat in range(options.repeats):
        measured = json.loads(_child_output("gemm.py"))
        gemm_gflops.append(measured["gflops"])
        for name, python in pythons.items():
            if not TOOLS[name].runs_on(measured["dtype"]):
                continue
            run_folder = folder / f"{job.name}-{name}-{repeat}"
            if isinstance(python, str):
                runs[name].append(python)
            else:
                runs[name].append(_run_once(TOOLS[name], python, prepared, run_folder, measured["dtype"]))
    ceiling = statistics.median(gemm_gflops)
    outcomes = judge({name: of for name, of in runs.items() if of}, prepared, ceiling)
    of_job = {
        **common,
        "job": job.name,
        "gemm_gflops": round(ceiling, 1),
        "dtype": measured["dtype"],
        "work": asdict(prepared.work),
    }
    return [_line(of_job, TOOLS[name], pythons[name], outcome) for name, outcome in outcomes.items()]


def _prepare(job: Job, rows: int | None, folder: Path) -> Prepared:
    rows_file = folder / f"{job.name}-rows.json"
    count = min(rows or job.rows, job.rows)
    made = json.loads(_child_output("prepare.py", job.name, str(count), str(rows_file), str(cache_folder())))
    return Prepared(job, Work(**made["work"]), made["model_folder"], rows_file)


def _child_output(program: str, *words: str) -> str:
    """Run a program of this folder with lorakit importable, and return the last line it prints."""
    outcome = subprocess.run(
        [sys.executable, str(_FOLDER / program), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if outcome.returncode != 0:
        raise SystemExit(f"error: {program} ended with {outcome.returncode}: {reason_in(outcome.stderr)}")
    return outcome.stdout.strip().splitlines()[-1]


def _run_once(tool: Tool, python: Path, prepared: Prepared, folder: Path, dtype: str) -> Run | str:
    folder.mkdir()
    spec = specification(tool, prepared.job, prepared.work, prepared.model_folder, prepared.rows_file, folder)
    spec = dataclasses.replace(spec, dtype=tool.dtype or dtype)
    with beside(tool.busy):
        run = read_run(run_child(command(tool, prepared.job, python, spec), folder))
    said = run if isinstance(run, str) else f"{prepared.work.rows / run.training_seconds:.2f} samples/s"
    print(f"{folder.name:<24} {said}", flush=True)
    return run


def judge(runs: Mapping[str, Sequence[Run | str]], prepared: Prepared, gemm_gflops: float) -> dict[str, Outcome]:
    """Summarise every tool's runs and hold them against the reference; one failed run fails its tool."""
    job, work = prepared.job, prepared.work
    failures = {name: next((run for run in of if isinstance(run, str)), None) for name, of in runs.items()}
    summaries = {
        name: summarise([run for run in of if isinstance(run, Run)], work, job.rows_per_step, gemm_gflops)
        for name, of in runs.items()
        if failures[name] is None
    }
    reference = summaries.get(REFERENCE)
    return {
        name: Outcome(summaries[name], fault_of(summaries[name], reference, work, TOOLS[name].packs))
        if name in summaries
        else Outcome(None, failures[name])
        for name in runs
    }


def _line(common: Mapping[str, Any], tool: Tool, python: Path | str, outcome: Outcome) -> dict[str, Any]:
    versions = dict(versions_of(tool.environment)) if isinstance(python, Path) else {}
    numbers = None
    if outcome.summary is not None:
        numbers = {key: _rounded(value) for key, value in asdict(outcome.summary).items()}
    return {**common, "tool": tool.name, "versions": versions, "fault": outcome.fault, "numbers": numbers}


def _rounded(value: float) -> float | None:
    """Keep six significant digits; JSON has no word for what is not a number."""
    if not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.6g}")


if __name__ == "__main__":
    raise SystemExit(main())
