"""D1: rows a second from a file to masked tokens, lorakit against ``datasets.map`` with TRL's preparation.

``python benchmarks/data_job.py`` measures 1, 20,000 and 200,000 rows with the starter model's tokenizer and chat
template, each run in a process of its own, the tools in turns; its imports are not counted. It leaves what it found in
history.jsonl, and in docs/performance.md where nothing was left out.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import commit, machine

ROOT = Path(__file__).resolve().parents[1]
COUNTS = (1, 20_000, 200_000)
NAME = "D1"
_TOOLS = {"lorakit": "lorakit", "trl": "TRL's preparation, `datasets.map`"}
_HEADER = (
    "rows and tool",
    "s",
    "rows/s",
    "CPU s",
    "rows/CPU s",
    "tokens",
    "lorakit's speed: by the clock, by CPU seconds",
)
_HISTORY_FILE = Path(__file__).with_name("history.jsonl")
_PAGE_FILE = ROOT / "docs" / "performance.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=list(COUNTS), help="how many (1 20000 200000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each tool, in turns (3)")
    parser.add_argument("--tools", nargs="+", choices=list(_TOOLS), default=list(_TOOLS), help="which (lorakit trl)")
    options = parser.parse_args(argv)
    is_complete = options.rows == list(COUNTS) and options.tools == list(_TOOLS)
    common = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "is_complete": is_complete,
        **commit(),
        "machine": machine(),
        "repeats": options.repeats,
        "job": NAME,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }
    lines: list[dict[str, Any]] = []
    print(f"{'rows':>8} {'tool':<8} {'seconds':>9} {'rows/s':>9} {'CPU s':>9} {'tokens':>10} {'trained':>9}")
    for count in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            found: dict[str, list[dict[str, Any]]] = {tool: [] for tool in options.tools}
            for repeat in range(options.repeats):
                files = write_rows(count, Path(folder), first=repeat * count)  # others each time: none are kept
                for tool in options.tools:
                    found[tool].append(_child(tool, files[tool], folder))
        for tool, runs in found.items():
            seconds = statistics.median(run["seconds"] for run in runs)
            processor = statistics.median(run["cpu_seconds"] for run in runs)
            numbers = {**runs[0], "rows": count, "seconds": seconds, "cpu_seconds": processor}
            lines.append({**common, "tool": tool, "fault": None, "numbers": numbers})
            speed = f"{seconds:>9.3f} {count / seconds:>9.0f} {processor:>9.3f}"
            print(f"{count:>8} {tool:<8} {speed} {runs[0]['tokens']:>10} {runs[0]['trained']:>9}", flush=True)
    with open(_HISTORY_FILE, "a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if is_complete:
        from report import page, read_history

        _PAGE_FILE.write_text(page(read_history(_HISTORY_FILE)), encoding="utf-8")
    return 0


def section(history: Sequence[Mapping[str, Any]], as_markdown: Callable[[Sequence[Sequence[str]]], str]) -> list[str]:
    """Write the newest complete run, for docs/performance.md."""
    complete = [line for line in history if line["job"] == NAME and line["is_complete"]]
    if not complete:
        return []
    newest = [line for line in complete if line["date"] == complete[-1]["date"]]
    first, own = newest[0], machine_words(newest[0]["machine"])
    when = f"{first['date'][:10]}, commit {first['commit']}{' with changes' if first['dirty'] else ''}, {own}"
    return [
        f"## {NAME}: rows from a file to masked tokens\n\n"
        "Short rows of question and answer with the starter's tokenizer and chat template, none of them read before; "
        f"{first['repeats']} runs a tool, in turns; threads: {first['threads']}. CPU seconds are those of all threads "
        "and processes. TRL trains the line break behind each answer too. "
        f"{when}.\n\n{as_markdown(_table(newest))}\n"
    ]


def machine_words(facts: Mapping[str, Any]) -> str:
    """Name a machine."""
    return f"{facts['cores']} cores of {facts['processor']} ({', '.join(facts['flags'])})"


def _table(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    ours = {line["numbers"]["rows"]: line["numbers"] for line in lines if line["tool"] == "lorakit"}
    return [_HEADER, *(_row(line, ours.get(line["numbers"]["rows"])) for line in lines)]


def _row(line: Mapping[str, Any], ours: Mapping[str, Any] | None) -> tuple[str, ...]:
    numbers = line["numbers"]
    ratios = [numbers[name] / ours[name] for name in ("seconds", "cpu_seconds")] if ours else []
    return (
        f"{numbers['rows']:,}: {_TOOLS[line['tool']]}",
        f"{numbers['seconds']:.3f}",
        f"{numbers['rows'] / numbers['seconds']:,.0f}",
        f"{numbers['cpu_seconds']:.3f}",
        f"{numbers['rows'] / numbers['cpu_seconds']:,.0f}",
        f"{numbers['tokens']:,}",
        ", ".join(f"{ratio:.2f} x" for ratio in ratios) or "-",
    )


def write_rows(count: int, folder: Path, first: int = 0) -> dict[str, Path]:
    """Write the same rows in the shape that each tool takes without conversion."""
    pairs = [
        (f"How do I sleep well in night {number}?", f"Go to bed early, on day {number} too. 早点睡，放下手机。")
        for number in range(first, first + count)
    ]
    shapes = {
        "lorakit": [{"text": question, "target": answer} for question, answer in pairs],
        "trl": [
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            for question, answer in pairs
        ],
    }
    files = {tool: folder / f"{tool}.jsonl" for tool in shapes}
    for tool, rows in shapes.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files[tool].write_text(lines, encoding="utf-8")
    return files


def _child(tool: str, file: Path, folder: str) -> dict[str, Any]:
    outcome = subprocess.run(
        [sys.executable, __file__, "--child", tool, str(file)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": folder, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if outcome.returncode != 0:
        raise SystemExit(f"error: {tool} ended with {outcome.returncode}:\n{outcome.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(outcome.stdout.strip().splitlines()[-1])
    return found


def prepare_by_lorakit(file: str) -> dict[str, Any]:
    """Read and encode by lorakit."""
    from lorakit.config import Config
    from lorakit.data_processing import ChatFormat, load_dataset
    from lorakit.model_config import load_tokenizer, locate_model

    chat_format = ChatFormat(load_tokenizer(locate_model("starter", "huggingface")))
    started = _clocks()
    dataset = load_dataset(file, Config(), chat_format)
    return {**_since(started), "tokens": dataset.tokens, "trained": dataset.targets}


def prepare_by_trl(file: str) -> dict[str, Any]:
    """Read by ``datasets`` and encode as TRL's trainer does when it is made, for a model of next to no size."""
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    from lorakit.model_config import load_tokenizer, locate_model

    tokenizer = load_tokenizer(locate_model("starter", "huggingface"))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", max_length=1024)
        started = _clocks()
        rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=folder)
        trainer = SFTTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)
        spent = _since(started)
        prepared = trainer.train_dataset
        tokens = sum(map(len, prepared["input_ids"]))
        trained = sum(label != -100 for labels in prepared["labels"] for label in labels)
        return {**spent, "tokens": tokens, "trained": trained}


def _clocks() -> tuple[float, float]:
    """Return the time, and what this process and those that it started have computed: all their threads' seconds."""
    times = os.times()
    return time.perf_counter(), times.user + times.system + times.children_user + times.children_system


def _since(started: tuple[float, float]) -> dict[str, float]:
    seconds, processor = (now - then for now, then in zip(_clocks(), started, strict=True))
    return {"seconds": seconds, "cpu_seconds": processor}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps({"lorakit": prepare_by_lorakit, "trl": prepare_by_trl}[sys.argv[2]](sys.argv[3])))
    else:
        raise SystemExit(main())
