"""Tables of results, on the screen and as docs/performance.md; both are made from lines of history.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import answers
import data_job
from jobs import JOBS
from tools import OURS, TOOLS

Line = Mapping[str, Any]  # one line of history.jsonl: one tool on one job in one run of the benchmark

_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("samples/s", "samples_per_second", ".2f"),
    ("after step 1", "samples_per_second_after_first_step", ".2f"),
    ("target tokens/s", "target_tokens_per_second", ".0f"),
    ("peak GB", "peak_gigabytes", ".2f"),
    ("to step 1, s", "first_step_seconds", ".1f"),
    ("first loss", "first_loss", ".3f"),
    ("last loss", "final_loss", ".3f"),
    ("of GEMM", "gemm_share", ".0%"),
)
HEADER = ("tool", *(title for title, _, _ in _COLUMNS), "lorakit's speed")

_INTRODUCTION = """\
# Performance

Written by `make bench` from [benchmarks/history.jsonl](../benchmarks/history.jsonl). Absolute numbers belong to the
machine and to the hour; **the ratios are what counts**: all tools of a table ran in turns (A B C A B C) in one run of
the command, each in a process of its own, and a cell is the median.

Every tool trains the same rows, in the same order where it does not pack them, with the model's own chat template:
LoRA r 8, alpha 16, no dropout, on `q_proj` and `v_proj`; one epoch, constant learning rate 1e-3, answers only, no
evaluation, no checkpoints; on the CPU. The peers compute in mixed bf16 where the matrix product of the machine is
faster in it, else in float32 (TRL, whose default bf16 is, in both). lorakit chooses by itself: bf16, float32, or, on
processors that multiply float16 fastest, float32 with float16 products (then it is measured in float32 too). Each tool
finds the packages of its own environment; lorakit and plain Trainer those that a user of lorakit has.
"""
_READING = """\
## How to read it

- **samples/s**: rows over the seconds of all optimizer steps, the first one included; "after step 1" leaves it out.
- **target tokens/s**: answers and their end-of-turn tokens, counted once for all tools. Padding earns nothing.
- **peak GB**: largest resident set of the process. **to step 1**: seconds from the start of the process to the end of
  its first step: imports, reading, loading and, where a tool does it, compiling.
- **of GEMM**: the arithmetic that LoRA cannot do without, in relation to what the machine's fastest matrix product
  (512 x 2048 x 2048, measured in the same run) could have done in that time:
  4 x weights of the linear layers x tokens + 4 x vocabulary x hidden x target tokens. Every weight takes two operations
  forward and two for the gradient of its input; frozen weights have none of their own. PyTorch has no fast product in
  float16 on a CPU, lorakit has: there its share can be above 100%.
- **lorakit's speed**: lorakit's samples/s over this tool's.
- **I1**: tokens of whole answers over their seconds, reading the prompts included. "lorakit before" is transformers'
  `generate` on lorakit's model, which answered until the decoder came. Q8_0 has 8.5 bits a weight, Q4_0 4.5, lorakit's
  int8 8.5 and int4 5 (8.5 in the output projection); lorakit reads prompts in the same bits.
- A tool counts only if it trained all rows and no more than their answers (and the line break a template writes after
  them), every gradient norm is above zero, and its loss is that of plain Trainer + PEFT: within 2% at the first step,
  or, where packing makes other batches, within 20% over the epoch.
"""


def table(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Lay out the results of one job, the header first."""
    ours = next((line["numbers"] for line in lines if line["tool"] == OURS and line["numbers"]), None)
    return [HEADER, *(_row(line, ours) for line in lines)]


def _row(line: Line, ours: Mapping[str, float] | None) -> tuple[str, ...]:
    title = TOOLS[line["tool"]].title if line["tool"] in TOOLS else line["tool"]
    numbers = line["numbers"]
    if numbers is None:
        return (title, *["-"] * len(_COLUMNS), line["fault"])
    cells = [format(numbers[name], style) if numbers[name] is not None else "-" for _, name, style in _COLUMNS]
    if line["fault"] is not None:
        return (title, *cells, f"not counted: {line['fault']}")
    return (title, *cells, f"{ours['samples_per_second'] / numbers['samples_per_second']:.2f} x" if ours else "-")


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Align a table for the screen."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False))]
        )
        + f"  {row[-1]}"
        for row in rows
    )


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    header, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    ruler = ["---", *["---:"] * (len(header) - 2), "---"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ruler, *body])


def page(history: Sequence[Line]) -> str:
    """Write docs/performance.md: for every job its newest complete run on each kind of machine."""
    runs = [lines for job in JOBS for lines in newest_complete(history, job)]
    measured = {line["tool"] for lines in runs for line in lines}
    notes = [f"- **{tool.title}**: {tool.note}" for tool in TOOLS.values() if tool.name in measured]
    sections = [*map(_section, runs), *answers.section(history, as_markdown), *data_job.section(history, as_markdown)]
    return "\n".join([_INTRODUCTION, *sections, "## The tools\n", *notes, "", _READING.rstrip(), ""])


def newest_complete(history: Sequence[Line], job: str) -> list[list[Line]]:
    """Return the lines of the last runs that measured all of a job's rows with all tools, the newest run first.

    There is one for each kind of processor and the number format that was fastest on it.
    """
    runs: dict[tuple[Any, ...], list[Line]] = {}
    for line in history:
        if line["job"] != job or not line["is_complete"]:
            continue
        machine = line["machine"]
        kind = (machine["processor"], *machine["flags"], _dtype(line))
        earlier = runs.get(kind, [])
        runs[kind] = [*earlier, line] if earlier and earlier[0]["date"] == line["date"] else [line]
    return sorted(runs.values(), key=lambda lines: lines[0]["date"], reverse=True)


def _dtype(line: Line) -> str:
    return str(line.get("dtype", "bfloat16"))


def _section(lines: Sequence[Line]) -> str:
    first, job = lines[0], JOBS[lines[0]["job"]]
    machine, work = first["machine"], first["work"]
    flags = f" ({', '.join(machine['flags'])})" if machine["flags"] else ""
    source = "" if work["rows_source"] == "file" else " (generated)"
    return (
        f"## {job.name} in {_dtype(first)}: {job.title}\n\n"
        f"{work['rows']} rows{source} with {work['tokens']} tokens, {work['target_tokens']} of them trained; "
        f"{job.rows_per_step} rows a step; {first['repeats']} runs a tool. {first['date'][:10]}, commit "
        f"{first['commit']}{' with changes' if first['dirty'] else ''}, {machine['cores']} cores of "
        f"{machine['processor']}{flags}, {first['gemm_gflops']:.0f} GFLOP/s in {_dtype(first)}.\n\n"
        f"{as_markdown(table(lines))}\n\n"
        f"Versions: {_versions(lines)}.\n"
    )


def _versions(lines: Sequence[Line]) -> str:
    """Name the versions of each environment once, with the tools that share it."""
    titles: dict[str, list[str]] = {}
    for line in lines:
        if line["versions"]:
            named = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
            titles.setdefault(named, []).append(TOOLS[line["tool"]].title)
    return "; ".join(f"{' and '.join(of)}: {named}" for named, of in titles.items())


def read_history(file: Path) -> list[Line]:
    """Read every line; a missing file has none."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
