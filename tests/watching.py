"""Run command lines of lorakit in a process that notes, by Python's audit events, whatever data should not lead to.

    python watching.py COMMANDS.json REPORT.json

COMMANDS holds ``{"world": folder, "private": folder, "commands": {name: {"arguments": [...], "given": text}}}``; what
is given is typed at a terminal, and null is an empty standard input. Code may come from Python's own folders and the
checkout alone. Nothing is unpickled, no program is started and no connection made. Nothing in ``private`` is opened,
nothing is written outside ``world``, and nothing read but there and where a system keeps its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CODE = tuple({str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix, Path(__file__).parents[1])})
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")
# What libraries look for on a machine, whatever the data: shared libraries, fonts, the processor.
OF_LIBRARIES = {"ldconfig", "gcc", "cc", "ld", "objdump", "fc-list", "uname", "lscpu", "system_profiler", "git"}
# Where a system keeps what any program may read: libraries, fonts, locales, certificates, the machine's own state.
OF_THE_SYSTEM = (
    "/usr/",
    "/lib",
    "/proc/",
    "/sys/",
    "/dev/",
    "/opt/",
    "/etc/ssl/",
    "/etc/fonts/",
    "/var/cache/fontconfig/",
)
SETTINGS_OF_THE_SYSTEM = tuple(
    f"/etc/{name}" for name in ("ld.so", "localtime", "timezone", "os-release", "mime", "nsswitch.conf", "inputrc")
)
CONNECTIONS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")


class Watch:
    """Collects what should not have happened."""

    def __init__(self, world: str, private: str) -> None:
        self.private = private
        self.writable = (world, "/dev", os.environ["LORAKIT_CACHE"], os.environ["HOME"])
        self.readable = (*self.writable, *CODE, *OF_THE_SYSTEM, *SETTINGS_OF_THE_SYSTEM)
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
        elif not path.startswith(self.readable):
            self.seen.append(f"read {name}")


@contextlib.contextmanager
def terminal(given: str | None, said: Path) -> Iterator[None]:
    """Let what happens inside read what is typed at a terminal, and keep what it says."""
    if given is None:
        with (
            open(said, "w", encoding="utf-8") as stream,
            open(os.devnull, encoding="utf-8") as nothing,
            contextlib.redirect_stdout(stream),
            contextlib.redirect_stderr(stream),
        ):
            before, sys.stdin = sys.stdin, nothing
            yield
            sys.stdin = before
        return
    with open(said, "wb") as stream:
        master, slave = os.openpty()
        os.write(master, given.encode())
        reader = threading.Thread(target=_copied, args=(master, stream))
        reader.start()
        kept = [os.dup(number) for number in range(3)]
        for number in range(3):
            os.dup2(slave, number)
        os.close(slave)
        streams = sys.stdin, sys.stdout, sys.stderr
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            for number, mode in enumerate("rww")
        )
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdin, sys.stdout, sys.stderr = streams
            for number, earlier in enumerate(kept):
                os.dup2(earlier, number)
                os.close(earlier)
            reader.join(timeout=60)


def _copied(master: int, stream: Any) -> None:
    with contextlib.suppress(OSError):  # the terminal is closed when its last holder is
        while piece := os.read(master, 4096):
            stream.write(piece)


def main() -> None:
    """Run all commands, and report for each of them its exit code, what it said, and what should not have happened."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    watch = Watch(asked["world"], asked["private"])
    from lorakit.cli import main as run

    sys.addaudithook(watch)
    report = {}
    for name, command in asked["commands"].items():
        said = Path(asked["world"]) / "said"
        watch.seen.clear()
        with terminal(command["given"], said):
            code = run(command["arguments"])
        seen = list(dict.fromkeys(watch.seen))
        report[name] = {"code": code, "seen": seen, "said": said.read_text(encoding="utf-8", errors="replace")[-9000:]}
    report["events"] = watch.events
    Path(sys.argv[2]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
