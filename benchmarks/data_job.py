"""D1: rows a second from a file to masked tokens, lorakit against ``datasets.map`` with TRL's preparation.

``python benchmarks/data_job.py`` measures 1, 20,000 and 200,000 rows with the starter model's tokenizer and chat
template, each run in a process of its own, the tools in turns; its imports are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COUNTS = (1, 20_000, 200_000)
_TOOLS = ("lorakit", "trl")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=list(COUNTS), help="how many (1 20000 200000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each tool, in turns (3)")
    parser.add_argument("--tools", nargs="+", choices=_TOOLS, default=list(_TOOLS), help="which (lorakit trl)")
    options = parser.parse_args(argv)
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
            speed = f"{seconds:>9.3f} {count / seconds:>9.0f} {processor:>9.3f}"
            numbers = f"{speed} {runs[0]['tokens']:>10} {runs[0]['trained']:>9}"
            print(f"{count:>8} {tool:<8} {numbers}", flush=True)
    return 0


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
