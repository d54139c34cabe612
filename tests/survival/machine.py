"""The crash machine: a task is ended, or a call of it fails, at any one of the calls that change files."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import ROOT

HERE = Path(__file__).parent
KILLED = -9


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        codes: Exit codes of its processes.
        errors: What all of them said.
        calls: How many calls of the one that is struck changed files.
        last: Name of the struck call.
        seconds: From the end of the first process to that of the last.
    """

    codes: tuple[int, ...]
    errors: str
    calls: int = 0
    last: str = ""
    seconds: float = 0.0

    @property
    def code(self) -> int:
        """The exit code of a task in one process; of several the first that is not 0."""
        return next((code for code in self.codes if code), 0)


@dataclass(frozen=True)
class Call:
    """Where a witnessed task stops.

    Attributes:
        number: Of the calls before it.
        name: What it calls.
        kept: Of each file with content that no fsync has covered, by its inode, how many bytes there were before.
    """

    number: int
    name: str
    kept: dict[int, int]


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
        warm_up: Arguments of a training, which imports what the tasks need.
    """

    def __init__(self, folder: Path, root: Path, warm_up: list[str]) -> None:
        self.root, self._folder = root, folder
        environment = os.environ | {
            "LD_PRELOAD": str(built_shim(folder)),
            "CRASH_ROOT": str(root),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",  # on a CPU no thread of autograd is lost in a fork
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
        found = self._ask({"argv": argv, "root": str(self.root), **words, **order})
        said = [Path(f"{words['stderr']}.{rank}") for rank in range(len(found["codes"]))]
        errors = "".join(file.read_text(errors="replace") for file in said)
        return Outcome(errors=errors, **found | {"codes": tuple(found["codes"])})

    def witness(self, argv: list[str], **order: object) -> Iterator[Call]:
        """Run a task that stops at each call that changes files, and goes on with the next one that is asked for."""
        words = {name: str(self._folder / f"witnessed-{name}") for name in ("stdout", "stderr")}
        found = self._ask({"kind": "witness", "argv": argv, "said": self._said, **words, **order})
        while "call" in found:
            yield Call(found["number"], found["call"], {inode: size for inode, size in found["kept"] if inode})
            found = self._ask({"kind": "go on"})
        assert found["codes"] == [0], Path(f"{words['stderr']}.0").read_text(errors="replace")

    def double(self, mode: str, error: int, aside: Path) -> Outcome:
        """Let a fault meet a double of the witnessed task, on the copy of files that are aside for so long."""
        found = self._ask({"kind": "double", "mode": mode, "error": error, "aside": str(aside)})
        errors = Path(self._said).read_text(errors="replace")
        return Outcome(codes=tuple(found["codes"]), errors=errors)

    @property
    def _said(self) -> str:
        return str(self._folder / "said-by-a-double")

    def _ask(self, order: dict[str, object]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def tree(folder: Path) -> dict[str, bytes]:
    """All files in a folder with their content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copy_tree(source: Path, target: Path) -> dict[int, Path]:
    """Copy a folder, in which files that are one stay one; return the copy of each file by its inode."""
    copies: dict[int, Path] = {}

    def copy(name: str, to: str) -> None:
        inode = os.lstat(name).st_ino
        if inode in copies:
            os.link(copies[inode], to)
        else:
            copies[inode] = Path(shutil.copy2(name, to, follow_symlinks=False))

    shutil.copytree(source, target, symlinks=True, copy_function=copy)
    return copies


def put(source: Path, target: Path) -> None:
    """Put a copy of a folder in place of whatever is there."""
    shutil.rmtree(target, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, target)
