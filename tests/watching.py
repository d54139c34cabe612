"""Run command lines of lorakit in a process that notes, by Python's audit events, whatever data should not lead to.

    python watching.py COMMANDS.json REPORT.json

COMMANDS holds ``{"world": folder, "private": folder, "commands": {name: [argument, ...]}}``. Code may come from
Python's own folders and the checkout alone. Nothing is unpickled, no program is started and no connection made.
Nothing in ``private`` is opened. Nothing is written outside ``world``, the home and the folder for temporary files.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

CODE = tuple({str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix, Path(__file__).parents[1])})
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")
# What libraries look for on a machine, whatever the data: shared libraries, fonts, the processor.
OF_LIBRARIES = {"ldconfig", "gcc", "cc", "ld", "objdump", "fc-list", "uname", "lscpu", "system_profiler", "git"}
CONNECTIONS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")


class Watch:
    """Collects what should not have happened."""

    def __init__(self, world: str, private: str) -> None:
        self.private = private
        self.writable = (world, tempfile.gettempdir(), "/dev", os.environ["LORAKIT_CACHE"], os.environ["HOME"])
        self.seen: list[str] = []
        self.events = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        self.events += 1
        if event == "subprocess.Popen" and os.path.basename(os.fsdecode(arguments[0])) in OF_LIBRARIES:
            return
        if event in PROGRAMS or event in CONNECTIONS or event == "pickle.find_class":
            self.seen.append(f"{event} {arguments!r}"[:300])
        elif event == "exec":
            self._code(getattr(arguments[0], "co_filename", "<none>"))
        elif event == "open" and isinstance(arguments[0], str | bytes):
            self._file(os.fsdecode(arguments[0]), arguments[1], arguments[2])

    def _code(self, name: str) -> None:
        if not name.startswith("<") and not os.path.abspath(name).startswith(CODE):
            self.seen.append(f"exec {name}")

    def _file(self, name: str, mode: str | None, flags: int) -> None:
        path = os.path.realpath(name)
        is_written = bool(flags & (os.O_WRONLY | os.O_RDWR)) or any(sign in (mode or "") for sign in "wax+")
        if path.startswith(self.private):
            self.seen.append(f"open {name}")
        elif is_written and not path.startswith((*self.writable, *CODE)):
            self.seen.append(f"write {name}")


def main() -> None:
    """Run all commands, and report for each of them its exit code, what it said, and what should not have happened."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    watch = Watch(asked["world"], asked["private"])
    from lorakit.cli import main as run

    sys.addaudithook(watch)
    report = {}
    for name, arguments in asked["commands"].items():
        watch.seen.clear()
        said = Path(asked["world"]) / "said"
        with open(said, "w") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            code = run(arguments)
        report[name] = {"code": code, "seen": list(dict.fromkeys(watch.seen)), "said": said.read_text()[-3000:]}
    report["events"] = watch.events
    Path(sys.argv[2]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
