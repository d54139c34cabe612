"""Install the project with its pinned packages: ``.venv/bin/python scripts/install.py vision``.

By uv where that is installed, which finds the build of PyTorch for this machine: on Linux that for CPUs is a tenth of
the size of the one with CUDA, which is all that pip knows. On Linux without a GPU uv is therefore fetched first. Where
uv fails, pip does it. What will be fetched is said before. Byte code is made by all cores, and only of what a run may
import.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_WANTED = ("-c", "constraints.txt", "-e")
# Two thirds of all code: tests of packages, and transformers' models that are not tested here. Of these Python makes
# byte code by itself when they are first imported.
_NOT_COMPILED = re.compile(
    r"[/\\](tests?|testing|triton|nvidia|pandas|networkx|pygments|mypy)[/\\]"
    r"|[/\\]transformers[/\\]models[/\\](?!auto|llama|qwen3|gpt2|opt[/\\])"
)


_SIZES = {
    "cpu": "about 0.4 GB to fetch: PyTorch for CPUs, as no GPU was found here, and the libraries beside it",
    "gpu": "3 to 5 GB to fetch: PyTorch with CUDA, as there is an NVIDIA GPU here, and the libraries beside it",
    "blind": "3 to 5 GB to fetch: PyTorch with CUDA, which pip takes though there is no GPU here; the build for CPUs "
    "is a tenth of that, where uv can be had (pip install uv)",
    "other": "about 0.5 GB to fetch: PyTorch, and the libraries beside it",
}


class Attempt(NamedTuple):
    """A way to install: its command, and what it will fetch."""

    command: list[str]
    fetches: str


def attempts(extra: str, uv: Sequence[str] | None, has_gpu: bool | None) -> Iterator[Attempt]:
    """Yield the ways to install, the best first; each is for where the one before has failed.

    Args:
        extra: Of the project.
        uv: How to call it, where it is there.
        has_gpu: None where all builds of PyTorch are one.
    """
    wanted = [*_WANTED, f".[{extra}]"]
    size = _SIZES["other" if has_gpu is None else "gpu" if has_gpu else "cpu"]
    by_pip = _SIZES["blind"] if has_gpu is False else size
    if uv:
        command = [*uv, "pip", "install", "--quiet", "--python", sys.executable]
        yield Attempt([*command, "--torch-backend=auto", *wanted], size)
        yield Attempt([*command, *wanted], by_pip)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    yield Attempt([*pip, "--no-compile", *wanted], by_pip)


def install(extra: str, call: Callable[..., int] = subprocess.call) -> int:
    """Install, and return the exit code of the last attempt."""
    has_gpu = shutil.which("nvidia-smi") is not None if sys.platform == "linux" else None
    environment = {"UV_HTTP_RETRIES": "1", **os.environ}  # where a host cannot be reached, the next way is as good
    code, said = 1, ""
    for attempt in attempts(extra, _uv(has_gpu, call), has_gpu):
        if attempt.fetches != said:
            sys.stderr.write(f"{attempt.fetches}; nothing is fetched that is here already\n")
        said = attempt.fetches
        code = call(attempt.command, cwd=ROOT, env=environment)
        if code == 0:
            break
    return code


def _uv(has_gpu: bool | None, call: Callable[..., int]) -> list[str] | None:
    """Return how to call uv; without a GPU on Linux it is worth fetching, 20 MB for gigabytes."""
    if found := shutil.which("uv"):
        return [found]
    if has_gpu is not False:
        return None
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"]
    return [sys.executable, "-m", "uv"] if call(pip, cwd=ROOT, env=dict(os.environ)) == 0 else None


def compile_packages() -> None:
    """Make byte code, on all cores; a file for a newer Python is passed over."""
    compileall.compile_dir(sysconfig.get_path("purelib"), quiet=2, workers=0, rx=_NOT_COMPILED)


if __name__ == "__main__":
    failed = install(sys.argv[1])
    if not failed:
        compile_packages()
    raise SystemExit(failed)
