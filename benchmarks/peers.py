"""The environments of the peers: one each, with pinned versions, made on first use."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from jobs import ROOT

_REQUIREMENTS = Path(__file__).parent / "peers"
_PACKAGES = ("torch", "transformers", "peft", "accelerate")
_VERSIONS_PROGRAM = (
    "import importlib.metadata, json, platform, sys; "
    "print(json.dumps({'python': platform.python_version()} | "
    "{name: importlib.metadata.version(name) for name in sys.argv[1:]}))"
)


class NotInstalledError(Exception):
    """A peer's environment cannot be made; the text says why."""


def cache_folder() -> Path:
    """Return the folder of environments, built models and runs: ``BENCH_VENVS``, else ``.bench`` in the checkout."""
    folder = Path(os.environ.get("BENCH_VENVS", ROOT / ".bench")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def python_of(environment: str | None) -> Path:
    """Return the Python of a peer's environment, which is installed where it is missing or out of date.

    Args:
        environment: Name of a file in ``peers/``; None for the Python that runs this program.

    Raises:
        NotInstalledError: pip could not install it.
    """
    if environment is None:
        return Path(sys.executable)
    requirements = _REQUIREMENTS / f"{environment}.txt"
    folder = cache_folder() / environment
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not (stamp.is_file() and stamp.read_text() == digest):
        print(f"installing {requirements.relative_to(ROOT)} ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
        stamp.write_text(digest)
    return python


def _run(command: list[str]) -> None:
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        raise NotInstalledError(reason_in(outcome.stderr) or f"pip ended with {outcome.returncode}")


def reason_in(text: str) -> str:
    """Return the line of an error text that says most, without addresses and folders, which are this machine's."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|ERROR|error|Exception)\b", line)]
    line = (errors or lines or [""])[-1]
    line = re.sub(r"\w+://\S+", "(address)", line)
    return re.sub(r"(?:/[^\s/'\":]+)+/([^\s/'\":]+)", r"\1", line)[:200]


def versions_of(environment: str | None) -> Mapping[str, str]:
    """Read the versions of what matters in an environment; a peer's environment is named after its package."""
    packages = _PACKAGES if environment is None else (environment, *_PACKAGES)
    command = [str(python_of(environment)), "-c", _VERSIONS_PROGRAM, *packages]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found
