"""Install the project with its pinned packages: ``.venv/bin/python scripts/install.py vision``.

By uv where that is installed, which on Linux without a GPU fetches PyTorch's CPU build, a tenth of the size of the one
with CUDA; else, and where uv fails, by pip. Byte code is made by all cores, and only of what a run may import.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_WANTED = ("-c", "constraints.txt", "-e")
# Two thirds of all code: tests of packages, and transformers' models that are not tested here. Of these Python makes
# byte code by itself when they are first imported.
_NOT_COMPILED = re.compile(
    r"[/\\](tests?|testing|triton|nvidia|pandas|networkx|pygments|mypy)[/\\]"
    r"|[/\\]transformers[/\\]models[/\\](?!auto|llama|qwen3|gpt2|opt[/\\])"
)


def attempts(extra: str, uv: str | None, has_no_gpu: bool) -> Iterator[list[str]]:
    """Yield the commands that install, the quickest first; each is for where the one before has failed."""
    wanted = [*_WANTED, f".[{extra}]"]
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
        if has_no_gpu:
            yield [*command, "--torch-backend=cpu", *wanted]
        yield [*command, *wanted]
    yield [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", *wanted]


def install(extra: str, call: Callable[..., int] = subprocess.call) -> int:
    """Install, and return the exit code of the last attempt."""
    has_no_gpu = sys.platform == "linux" and shutil.which("nvidia-smi") is None
    environment = {"UV_HTTP_RETRIES": "1", **os.environ}  # where a host cannot be reached, the next way is as good
    code = 1
    for command in attempts(extra, shutil.which("uv"), has_no_gpu):
        code = call(command, cwd=ROOT, env=environment)
        if code == 0:
            break
    return code


def compile_packages() -> None:
    """Make byte code, on all cores; a file for a newer Python is passed over."""
    compileall.compile_dir(sysconfig.get_path("purelib"), quiet=2, workers=0, rx=_NOT_COMPILED)


if __name__ == "__main__":
    failed = install(sys.argv[1])
    if not failed:
        compile_packages()
    raise SystemExit(failed)
