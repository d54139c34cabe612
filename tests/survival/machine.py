"""The crash machine: a task is ended, or a call of it fails, at any one of the calls that change files."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

HERE = Path(__file__).parent
KILLED = -9


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        codes: Exit codes of its processes.
        calls: How many calls of the one that is struck changed files.
        last: Name of the struck call.
        seconds: From the end of the first process to that of the last.
        errors: What all of them said.
    """

    codes: tuple[int, ...]
    calls: int
    last: str
    seconds: float
    errors: str

    @property
    def code(self) -> int:
        """The exit code of a task in one process; of several the first that is not 0."""
        return next((code for code in self.codes if code), 0)


def built_shim(folder: Path) -> Path:
    """Compile the shim."""
    library = folder / "crash_shim.so"
    source = str(HERE / "crash_shim.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", source, "-o", str(library), "-ldl"], check=True)
    return library


class CrashMachine:
    """A process that has imported everything, and forks a task for each order.

    Args:
        folder: For the shim and its words.
        root: Only calls on files under it count.
        warm_up: Arguments of a task without gradients that imports what the others need.
    """

    def __init__(self, folder: Path, root: Path, warm_up: list[str]) -> None:
        self.root, self._folder = root, folder
        environment = os.environ | {
            "LD_PRELOAD": str(built_shim(folder)),
            "CRASH_ROOT": str(root),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "MPLCONFIGDIR": str(folder / "matplotlib"),
        }
        command = [sys.executable, str(HERE / "crash_server.py"), json.dumps(warm_up)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, text=True, cwd=ROOT, **pipes)
        assert json.loads(self._process.stdout.readline())["code"] == 0

    def run(self, argv: list[str], **order: object) -> Outcome:
        """Run a task; see crash_server.py for what an order may say."""
        words = {"stdout": str(self._folder / "stdout"), "stderr": str(self._folder / "stderr")}
        self._process.stdin.write(json.dumps({"argv": argv, "root": str(self.root), **words, **order}) + "\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        said = [Path(f"{words['stderr']}.{rank}") for rank in range(len(found["codes"]))]
        errors = "".join(file.read_text(errors="replace") for file in said)
        return Outcome(errors=errors, **found | {"codes": tuple(found["codes"])})

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def tree(folder: Path) -> dict[str, bytes]:
    """All files in a folder with their content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(source: Path, target: Path) -> None:
    """Put a copy of a folder in place of whatever is there."""
    shutil.rmtree(target, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, target)
