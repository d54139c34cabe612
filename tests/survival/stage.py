"""A scenario made ready: struck at one call, or at every call of one run of it."""

import errno
import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from survival.machine import KILLED, Call, CrashMachine, Outcome, copy_tree, put, tree
from survival.scenarios import LONGEST_END, OWN, RUN, WORKING, Scenario

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}
PARTS = ("torn", "short")  # half of a write is done
ENDED = (("kill", 0), ("power", 0), ("torn", 0))
FAILED = (("short", 0), *((mode, error) for mode in ("fail_once", "fail_on") for error in ERRORS.values()))
_WRITES = ("write", "writev", "pwrite64", "sendfile64")


class Stage:
    """A scenario made ready: what it begins with, and what comes of it undisturbed.

    Args:
        machine: Runs it.
        scenario: To be run.
        argv: From a task's own arguments to all of them.
        begun: What the tasks before it have left.
    """

    def __init__(
        self, machine: CrashMachine, scenario: Scenario, argv: Callable[[tuple[str, ...]], list[str]], begun: Path
    ) -> None:
        self.machine, self.scenario, self.argv = machine, scenario, argv
        self._begun, self.run = begun, machine.root / RUN
        self.reset()
        self._kept = {name: (self.run / name).read_bytes() for name in scenario.kept}
        self._gone_on: set[str] = set()

    def reset(self) -> None:
        """Begin again, beside what a person may have put there."""
        put(self._begun, self.run)
        for name in (*OWN, *([self.scenario.own] if self.scenario.own else [])):
            (self.run / name).parent.mkdir(parents=True, exist_ok=True)
            (self.run / name).write_text("mine")

    @cached_property
    def calls(self) -> int:
        """How many calls change files where nothing disturbs it."""
        self.reset()
        whole = self.machine.run(self.argv(self.scenario.task), patches=self.scenario.patches, **self._processes)
        assert whole.code == 0, whole.errors
        self._wanted = self._result()
        return whole.calls

    def strike(self, point: int, mode: str, error: int = 0) -> str:
        """Disturb the task at a call, go on from there, and hold the result to that of an undisturbed run.

        Returns:
            What was struck, and how it went on.
        """
        assert point < self.calls
        self.reset()
        how = {"point": point, "mode": mode, "error": error} | self._processes
        struck = self.machine.run(self.argv(self.scenario.task), patches=self.scenario.patches, **how)
        what = _what(mode, error, point, struck.last)
        self._check_end(struck, what)
        if struck.code:
            what += self.go_on(what)
        assert self._result(what) == self._wanted, f"{what}: another result"
        return what

    def sweep(self, ways: Collection[tuple[str, int]], points: Collection[int] | None = None) -> dict[str, int]:
        """Run the task once, and at its calls disturb a double of it in each way; then as `strike`.

        A state of the folder from which it has gone on already is not gone on from again.

        Args:
            ways: Modes, with the number of an error.
            points: The calls; None takes all.

        Returns:
            How many points were struck in each mode, and from how many states it has gone on.
        """
        self.reset()
        results: list[tuple[str, dict[str, bytes]]] = []
        counts: dict[str, int] = {}
        for call in self.machine.witness(self.argv(self.scenario.task), patches=self.scenario.patches):
            for mode, error in ways if points is None or call.number in points else ():
                if mode in PARTS and call.name not in _WRITES:
                    continue
                with self._aside() as (aside, copies):
                    results += self._meet(call, mode, error, aside, copies)
                counts[mode] = counts.get(mode, 0) + 1
        wanted = self._result()
        for what, found in results:
            assert found == wanted, f"{what}: another result"
        return counts | {"gone on": len(self._gone_on)}

    def _meet(
        self, call: Call, mode: str, error: int, aside: Path, copies: dict[int, Path]
    ) -> Iterator[tuple[str, dict[str, bytes]]]:
        what = _what(mode, error, call.number, call.name)
        if mode in ("kill", "power"):
            struck = Outcome(codes=(KILLED,), errors="")
            for inode, size in call.kept.items() if mode == "power" else ():
                if inode in copies:
                    os.truncate(copies[inode], size)
        else:
            struck = self.machine.double(mode, error, aside)
        self._check_end(struck, what)
        if struck.code:
            state = _digest(self.run)
            if state in self._gone_on:
                return
            what += self.go_on(what)
            self._gone_on.add(state)
        yield what, self._result(what)

    @contextmanager
    def _aside(self) -> Iterator[tuple[Path, dict[int, Path]]]:
        """Have a copy of all files in their place, and afterwards the files themselves."""
        root = self.machine.root
        aside = root.with_name("aside")
        root.rename(aside)
        try:
            yield aside, copy_tree(aside, root)
        finally:
            put(Path("nowhere"), root)
            aside.rename(root)

    @property
    def _processes(self) -> dict[str, int]:
        return {"ranks": self.scenario.ranks, "struck_rank": self.scenario.struck_rank}

    def _check_end(self, struck: Outcome, what: str) -> None:
        what = f"{what}: exit {struck.codes}"
        assert set(struck.codes) <= {0, 2, KILLED}, f"{what}\n{struck.errors[-2000:]}"
        assert struck.seconds < LONGEST_END, f"{what}: the others have ended after {struck.seconds:.0f} s"
        assert "internal error" not in struck.errors, f"{what}\n{struck.errors[-2000:]}"
        messages = sum(line.startswith("error: ") for line in struck.errors.splitlines())
        assert messages == (struck.code == 2), f"{what}: {messages} messages\n{struck.errors[-4000:]}"
        self._check_nothing_lost(what)

    def go_on(self, what: str) -> str:
        """Take the task up again; return how."""
        for words in (self.scenario.again or self.scenario.task, self.scenario.task):
            outcome = self.machine.run(self.argv(words), patches=self.scenario.patches, ranks=self.scenario.ranks)
            assert "internal error" not in outcome.errors, f"{what}\n{outcome.errors[-2000:]}"
            if outcome.code == 0:
                left = [name for name in tree(self.run) if name.split("/")[0].startswith(WORKING)]
                assert not left, f"{what}: {left}"
                return f", went on with {' '.join(words[:3])}"
            assert outcome.code == 2, f"{what}\n{outcome.errors[-2000:]}"
        raise AssertionError(f"{what}: cannot go on\n{outcome.errors[-2000:]}")

    def _result(self, what: str = "undisturbed") -> dict[str, bytes]:
        self._check_nothing_lost(what)
        return {name: (self.run / name).read_bytes() for name in self.scenario.result}

    def _check_nothing_lost(self, what: str) -> None:
        there = tree(self.run)
        for name in OWN:
            assert there.get(name) == b"mine", f"{what}: the user's own {name} is gone"
        for name, content in self._kept.items():
            places = [path for path, found in there.items() if path.endswith(_within(name)) and found == content]
            assert places, f"{what}: {name} is lost"


def _what(mode: str, error: int, point: int, name: str) -> str:
    return f"{mode} {errno.errorcode.get(error, '')} at call {point} ({name})"


def _within(name: str) -> str:
    """Return a file's name within the folder that may have been renamed as a whole."""
    return "/" + name.split("/", 1)[1]


def _digest(folder: Path) -> str:
    """Return the hash of names, kinds and content of all that is in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        content = os.readlink(path).encode() if kind == "link" else path.read_bytes() if kind == "file" else b""
        found.update(f"{path.relative_to(folder)}\0{kind}\0{len(content)}\0".encode() + content)
    return found.hexdigest()
