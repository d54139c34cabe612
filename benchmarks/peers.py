"""The environments: one for each peer, with pinned versions, and lorakit's as a user has it; made on first use."""

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

# lorakit's environment, without the packages of development: some are imported wherever they are found.
OWN = "lorakit"
_OWN_FILES = ("constraints.txt", "pyproject.toml")
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


def python_of(environment: str) -> Path:
    """Return the Python of an environment, which is installed where it is missing or out of date.

    Args:
        environment: `OWN`, or the name of a file in ``peers/``.

    Raises:
        NotInstalledError: pip could not install it.
    """
    files, arguments = _installation(environment)
    folder = cache_folder() / environment
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if not (stamp.is_file() and stamp.read_text() == digest):
        print(f"installing {environment} ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", *arguments])
        stamp.write_text(digest)
    return python


def _installation(environment: str) -> tuple[list[Path], list[str]]:
    """Return the files that say what is installed, and the arguments for pip."""
    if environment == OWN:
        return [ROOT / name for name in _OWN_FILES], ["-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[vision]"]
    requirements = _REQUIREMENTS / f"{environment}.txt"
    return [requirements], ["-r", str(requirements)]


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


def versions_of(environment: str) -> Mapping[str, str]:
    """Read the versions of what matters in an environment, which is named after its package."""
    command = [str(python_of(environment)), "-c", _VERSIONS_PROGRAM, environment, *_PACKAGES]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found
