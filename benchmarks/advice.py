"""The advisor's learning rate against a full sweep: ``python benchmarks/advice.py FILE ...``.

For each file of rows (Alpaca's fields, or conversations with a chosen answer): what ``--task advise`` does, then a
whole training with each rate of the sweep and with the advised one, all from the same start on the same model. A row
is its last question with the first sentence of its answer. Prints a table for docs/experiments.md: the lowest
validation loss of each, and what the advice cost of the sweep, in steps and in CPU seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lorakit.config import Config
from lorakit.model_config import quiet_libraries
from lorakit.train.planning.advising import rates_around
from lorakit.train.planning.plan import plan_run
from lorakit.train.planning.short_runs import ShortRuns, best_of, halved, rate_for
from lorakit.train.setup.learning_rate import steps_of
from lorakit.train.setup.preparing import gather, prepare

SWEEP = (2e-4, 5e-4, 1e-3, 2e-3, 4e-3)
_SENTENCE = re.compile(r".+?(?:[。！？!?\n]|\.(?=\s|$)|$)", re.DOTALL)


def rows_of(file: Path, most_characters: int) -> Iterator[dict[str, str]]:
    """Yield the short rows of a file."""
    for row in json.loads(file.read_text(encoding="utf-8")):
        if "chosen" in row:
            asked = [turn["value"] for turn in row["conversations"] if turn["from"] == "human"]
            question, answer = asked[-1] if asked else "", row["chosen"]["value"]
        else:
            question, answer = f"{row['instruction']}\n{row.get('input', '')}".strip(), row["output"]
        found = _SENTENCE.match(answer.strip())
        answer = found[0].strip() if found else ""
        if question and answer and len(question) + len(answer) <= most_characters:
            yield {"text": question, "target": answer}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result, and the CPU seconds that it took."""
    started = time.process_time()
    return work(), time.process_time() - started


def compare(file: Path, options: argparse.Namespace, folder: Path) -> str:
    """Measure one file; return its lines of the table."""
    rows = list(itertools.islice(rows_of(file, options.characters), options.rows))
    rows_file = folder / file.name
    rows_file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    settings = {
        "model_name_or_path": options.model,
        "train_file": str(rows_file),
        "validation_file": None,
        "validation_share": options.share,
        "num_train_epochs": options.epochs,
        "per_device_train_batch_size": options.batch,
        "output_dir": str(folder),
    }
    config = Config.model_validate(settings)
    prepared = prepare(config, gather(config, None))
    runs = ShortRuns(prepared, plan_run(prepared, None))
    steps = steps_of(prepared.config, len(prepared.data.train.encoded), 1)
    rule = float(prepared.config.learning_rate)
    tried, advice_seconds = timed(lambda: halved(runs, rates_around(rule), steps))
    advised = rate_for(best_of(tried), steps)
    tokens = sum(len(row.input_ids) for row in prepared.data.train.encoded)
    print(f"{file.name}: {len(rows)} rows, {tokens} tokens an epoch, {steps} steps, rule {rule:g}", flush=True)
    for one in tried:
        print(f"  tried {one.rate:g} for {one.steps}: {one.loss:.4f}", flush=True)
    losses, sweep_seconds = {}, 0.0
    for rate in SWEEP if advised in SWEEP else (*SWEEP, advised):
        loss, seconds = timed(lambda rate=rate: runs.loss_after(rate, steps, validates=True))
        losses[rate] = loss
        sweep_seconds += seconds if rate in SWEEP else 0.0
        print(f"  whole run with {rate:g}: {loss:.4f} ({seconds:.0f} CPU s)", flush=True)
    best = min(SWEEP, key=lambda rate: losses[rate])
    advice_steps = sum(one.steps for one in tried)
    cells = [
        file.name,
        f"{steps}",
        ", ".join(f"{rate:g}: {losses[rate]:.3f}" for rate in SWEEP),
        f"{advised:g}: {losses[advised]:.3f}",
        f"{losses[advised] / losses[best] - 1:+.1%}",
        f"{advice_steps / steps / len(SWEEP):.1%}, {advice_seconds / sweep_seconds:.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all files, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rows", type=int, default=160, help="of each file (160)")
    parser.add_argument("--characters", type=int, default=120, help="of the longest row (120)")
    parser.add_argument("--share", type=float, default=0.1, help="of the rows to validate on (0.1)")
    parser.add_argument("--epochs", type=float, default=2, help="of a whole run (2)")
    parser.add_argument("--batch", type=int, default=2, help="rows of a step (2)")
    options = parser.parse_args(argv)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        lines = [compare(file, options, Path(folder)) for file in options.files]
    print("\n| rows | steps of a run | sweep | advised | from the best | cost of the sweep: steps, CPU s |")
    print("|---|---|---|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main()
