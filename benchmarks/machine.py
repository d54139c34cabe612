"""What a result belongs to: the machine and the commit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from jobs import ROOT

_MEASURED = ("lorakit", "main.py", "benchmarks", ":!benchmarks/history.jsonl")
_TELLING_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def machine() -> dict[str, Any]:
    """Describe the processor."""
    fields = _processor_fields()
    flags = fields.get("flags", "").split()
    return {
        "processor": fields.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in _TELLING_FLAGS if flag in flags],
        "system": platform.system(),
    }


def has_instructions(name: str) -> bool:
    """Whether the processor has them."""
    return name in _processor_fields().get("flags", "").split()


def _processor_fields() -> dict[str, str]:
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    first = file.read_text().split("\n\n")[0]
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def commit() -> dict[str, Any]:
    """Name the commit that was measured, and whether the code differs from it."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", *_MEASURED)),
    }


def _git(*words: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    outcome = subprocess.run([git, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return outcome.stdout.strip()
