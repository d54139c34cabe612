"""Runs one child process and measures it from outside: peak memory, and when its first step was done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import ROOT
from peers import reason_in
from spec import EVENTS_FILE

_LOOK_SECONDS = 0.02
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
# Nothing is fetched, nothing finds a GPU, and nothing but a tool's own caches is warm.
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "PYTHONPATH": "",
    "PYTHONUNBUFFERED": "1",
    "WANDB_DISABLED": "true",
}


@dataclass(frozen=True)
class Child:
    """What was seen of a process.

    Attributes:
        failure: Why it failed; None where it ended well.
        peak_bytes: Its largest resident set.
        first_step_seconds: From its start to the end of its first optimizer step; None where it never came to that.
        events: The lines of its events file.
    """

    failure: str | None
    peak_bytes: int
    first_step_seconds: float | None
    events: tuple[Mapping[str, Any], ...]


@contextmanager
def beside(processes: int) -> Iterator[None]:
    """Keep the machine busy with so many processes."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run_child(command: Sequence[str], folder: Path, limit_seconds: float = 3600) -> Child:
    """Run a command to its end in the checkout.

    Args:
        command: Program and arguments.
        folder: Where it writes its events file, and where its output is kept as ``log.txt``.
        limit_seconds: It is killed after so long.
    """
    events_file = folder / EVENTS_FILE
    environment = os.environ | _ENVIRONMENT | {"HF_HOME": str(folder / "huggingface")}
    first_step_seconds = None
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
                elapsed = time.perf_counter() - started
                if first_step_seconds is None and _has_step(events_file):
                    first_step_seconds = elapsed
                if elapsed > limit_seconds:
                    process.kill()
                time.sleep(_LOOK_SECONDS)
            if first_step_seconds is None and _has_step(events_file):
                first_step_seconds = time.perf_counter() - started
        except BaseException:
            process.kill()
            raise
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    failure = None
    if process.returncode != 0:
        said = reason_in((folder / "log.txt").read_text(encoding="utf-8", errors="replace"))
        failure = f"ended with {process.returncode}: {said}"
    return Child(failure, ended[2].ru_maxrss * _RSS_UNIT_BYTES, first_step_seconds, tuple(_events(events_file)))


def _has_step(file: Path) -> bool:
    return file.is_file() and any(event["event"] == "step" for event in _events(file))


def _events(file: Path) -> list[dict[str, Any]]:
    """Read the complete lines of an events file."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
