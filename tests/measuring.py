"""Run command lines of lorakit in processes forked off one that has everything imported, and measure what each takes.

    python measuring.py REPORT.json [PART OF A NAME]

The report says of every case of bad input its exit code, what it said, its processor time, and the peak of its memory
above that of a training of a few steps, which is the usual.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HANGS_AFTER_SECONDS = 60  # of wall time, on a machine that others may be using as well


@dataclass(frozen=True)
class Outcome:
    """What became of a command line.

    Attributes:
        code: Its exit code; below zero for the signal that ended it, None where it was ended for hanging.
        said: On standard output and standard error.
        seconds: Of processor time, in itself and its children.
        peak_bytes: The peak of its resident memory, which begins with that of its parent.
    """

    code: int | None
    said: str
    seconds: float
    peak_bytes: int


def outcome_of(call: Callable[[], int], folder: Path, given: bytes = b"") -> Outcome:
    """Call something in a child of this process that stands in a folder, with what it is given on standard input."""
    said, stdin = folder.parent / f"{folder.name}.said", folder.parent / f"{folder.name}.stdin"
    stdin.write_bytes(given)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        os.dup2(os.open(stdin, os.O_RDONLY), 0)
        written = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 1)
        os.dup2(written, 2)
        code = 99
        try:
            code = call()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    status, used = _waited_for(child)
    code = None if status is None else os.waitstatus_to_exitcode(status)
    seconds = used.ru_utime + used.ru_stime
    return Outcome(code, said.read_text(errors="replace"), seconds, used.ru_maxrss * 1024)


def _waited_for(child: int) -> tuple[int | None, resource.struct_rusage]:
    end = time.monotonic() + HANGS_AFTER_SECONDS
    while time.monotonic() < end:
        found, status, used = os.wait4(child, os.WNOHANG)
        if found:
            return status, used
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    return None, os.wait4(child, 0)[2]


def import_everything() -> None:
    """Import what any task imports, so that children share it."""
    import importlib

    from lorakit.cli import _TASK_MODULES

    for name in (*_TASK_MODULES.values(), "peft", "transformers.models.llama", "transformers.trainer", "openpyxl"):
        importlib.import_module(name)
    from transformers import AutoModelForCausalLM, LlamaForCausalLM, Trainer

    assert all((AutoModelForCausalLM, LlamaForCausalLM, Trainer))


class Laboratory:
    """Where cases are prepared: tiny models, and an adapter that was trained in a child.

    Args:
        root: A folder for it.
    """

    def __init__(self, root: Path) -> None:
        from bad_input import Lab
        from conftest import save_family

        self.root = root
        self._lab = Lab

        def folder_of(family: str) -> Path:
            folder = root / "models" / family
            return folder if folder.is_dir() else save_family(family, folder)

        self._model_folder = folder_of
        (root / "trained").mkdir()
        lab = Lab(root / "trained", folder_of, root / "none")
        quick = ("--num_train_epochs", "1", "--learning_rate", "0.01", "--set=max_new_tokens=1")
        trained = self.run(lab.command("train", *quick), root / "trained")
        assert trained.code == 0, trained.said
        self.usual_bytes = trained.peak_bytes
        self.run_folder = root / "trained" / "out"

    def run(self, argv: Sequence[str], folder: Path, given: bytes = b"") -> Outcome:
        """Run a command line in a folder."""
        from lorakit.cli import main

        return outcome_of(lambda: main(list(argv)), folder, given)

    def lab(self, name: str) -> object:
        """Return a laboratory for one case."""
        folder = self.root / name
        folder.mkdir()
        return self._lab(folder, self._model_folder, self.run_folder / "lora_model")


def main() -> None:
    """Measure all cases of bad input."""
    import shutil

    import bad_input_cases

    import_everything()
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder))
        for number, case in enumerate(bad_input_cases.ALL):
            if wanted in case.name:
                lab = laboratory.lab(f"case{number}")
                os.chdir(lab.folder)
                outcome = laboratory.run(case.prepare(lab), lab.folder)
                report[case.name] = {**asdict(outcome), "bytes_above": outcome.peak_bytes - laboratory.usual_bytes}
                os.chdir(folder)
                shutil.rmtree(lab.folder)
    Path(sys.argv[1]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
