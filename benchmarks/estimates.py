"""What ``--task plan`` estimates against what a training takes: ``python benchmarks/estimates.py [SHAPE ...]``.

Three shapes of rows for the starter model: short ones, one question of 5,000 tokens among others, and many. Both are
counted in this process's CPU seconds, so that other work on the machine does not count: run it with OMP_NUM_THREADS=1.
Prints a table for docs/experiments.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

time.perf_counter = time.process_time  # before lorakit takes its own times

from lorakit.config import Config  # noqa: E402
from lorakit.model_config import quiet_libraries  # noqa: E402
from lorakit.train import training  # noqa: E402
from lorakit.train.planning import preflight  # noqa: E402
from lorakit.train.planning.answering_time import answering_seconds  # noqa: E402
from lorakit.train.planning.fitting import settle  # noqa: E402
from lorakit.train.planning.trial import Effort  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = json.loads((ROOT / "data" / "train.json").read_text(encoding="utf-8"))
_LONG_WORDS = 4960  # of one token each; with the template about 5,000


def short_rows() -> tuple[list[dict[str, str]], dict[str, float]]:
    """Return the sample, three times over."""
    return SAMPLE, {"num_train_epochs": 3}


def long_question() -> tuple[list[dict[str, str]], dict[str, float]]:
    """Return twelve rows of the sample, and one whose question is very long."""
    question = " ".join(itertools.islice(itertools.cycle(["the", "shop", "opens", "at", "nine"]), _LONG_WORDS))
    return [{"text": question, "target": "At nine."}, *SAMPLE[:12]], {"num_train_epochs": 2}


def many_rows() -> tuple[list[dict[str, str]], dict[str, float]]:
    """Return 120 rows, each another one, once."""
    rows = [
        {"text": f"{row['text']} ({number})", "target": row["target"][:40]} for number in range(8) for row in SAMPLE
    ]
    return rows, {"num_train_epochs": 1}


SHAPES = {"short rows": short_rows, "one question of 5,000 tokens": long_question, "many rows": many_rows}


def measure(shape: str, folder: Path) -> str:
    """Plan and train one shape; return its line of the table."""
    rows, settings = SHAPES[shape]()
    rows_file = folder / "rows.json"
    rows_file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    given = {
        "model_name_or_path": "starter",
        "train_file": str(rows_file),
        "validation_file": None,
        "validation_share": 0.1 if len(rows) > 100 else 0.2,
        "max_new_tokens": 64,
        "max_generated_rows": 8,
        "output_dir": str(folder / "output"),
    }
    config = Config.model_validate(given | settings)
    planning = time.process_time()
    effort = Effort(passes=2, is_estimate=True, new_tokens=16)
    settled = settle(config, None, lambda _: effort, asks=False)
    answers = answering_seconds(settled.prepared)
    steps, validation = preflight.run_seconds(settled.prepared, settled.plan, settled.trial)
    planned = steps + validation + answers
    planning = time.process_time() - planning
    del settled
    started = time.process_time()
    training.run(config)
    taken = time.process_time() - started
    events = (folder / "output" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    stepped = sum(json.loads(line).get("step_seconds", 0.0) for line in events)
    factor = max(planned / taken, taken / planned)
    cells = [
        shape,
        str(len(rows)),
        f"{planning:.0f}",
        f"{steps:.0f}",
        f"{stepped:.0f}",
        f"{planned:.0f}",
        f"{taken:.0f}",
    ]
    return f"| {' | '.join([*cells, f'{factor:.2f}'])} |" if math.isfinite(factor) else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the shapes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], help="which; all without")
    quiet_libraries()
    lines = []
    for shape in parser.parse_args(argv).shapes or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(measure(shape, Path(folder)))
            print(lines[-1], flush=True)
    print("\n| rows | how many | plan itself | steps planned | steps | run planned | run | factor |")
    print("|---|---|---|---|---|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main()
