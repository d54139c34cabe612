"""What memory there is: of the machine, and of the control groups (containers, services) that this process is in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROC = Path("/proc")
_USUAL_MOUNTS = {"cgroup2": Path("/sys/fs/cgroup"), "cgroup": Path("/sys/fs/cgroup/memory")}
# Both versions' files: limits, what is taken, and the lines of memory.stat with file pages that can be dropped.
# https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/memory.html
_LIMITS = {"cgroup2": ("memory.max", "memory.high"), "cgroup": ("memory.limit_in_bytes",)}
_TAKEN = {"cgroup2": "memory.current", "cgroup": "memory.usage_in_bytes"}
_DROPPABLE = {
    "cgroup2": ("active_file", "inactive_file"),
    "cgroup": ("total_active_file", "total_inactive_file"),
}
_OCTAL = re.compile(r"\\([0-7]{3})")  # how mountinfo writes spaces


@dataclass(frozen=True)
class MachineMemory:
    """Bytes of memory.

    Attributes:
        total: Of the machine, or of the control group with the smallest limit, where that is less.
        free: Can still be had; file pages that can be dropped are among it, whoever has mapped them.
        whose: The holder of ``total``, in words.
    """

    total: int
    free: int
    whose: str = "the machine's"


def machine_memory(proc: Path = _PROC) -> MachineMemory:
    """Return what this process may take: no more than the machine and each control group above it have.

    Args:
        proc: Where the kernel shows processes and mounts.
    """
    machine = psutil.virtual_memory()
    total, free, whose = int(machine.total), int(machine.available), "the machine's"
    for limit, left in _group_limits(proc):
        free = min(free, left)
        if limit < total:
            total, whose = limit, "the container's"
    return MachineMemory(total, max(free, 0), whose)


def resident_bytes(proc: Path = _PROC) -> tuple[int, int]:
    """Return what of this process is in memory: all of it, and what cannot be dropped as a file's pages can.

    A model's weights may be pages of their files, which the system counts as free.
    """
    try:
        status = _numbers((proc / "self" / "status").read_text(encoding="utf-8").replace(":", " "))
        own = status["RssAnon"] + status["RssShmem"]
        return 1024 * (own + status["RssFile"]), 1024 * own
    except (OSError, KeyError):  # not Linux, or an old one
        resident = int(psutil.Process().memory_info().rss)
        return resident, resident


def _group_limits(proc: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit of each control group that this process is in, and what is left of it."""
    for kind, group in _groups(proc):
        mount, root = _mount(proc, kind)
        folder = mount / _below(group, root)
        while True:
            yield from _limits_of(folder, kind)
            if folder == mount:
                break
            folder = folder.parent


def _groups(proc: Path) -> Iterator[tuple[str, str]]:
    """Yield kind and path of the groups that hold memory, of ``0::/a/b`` and ``4:cpu,memory:/a/b``."""
    for line in _lines(proc / "self" / "cgroup"):
        number, controllers, group = line.split(":", 2)
        if number == "0" and not controllers:
            yield "cgroup2", group
        elif "memory" in controllers.split(","):
            yield "cgroup", group


def _mount(proc: Path, kind: str) -> tuple[Path, str]:
    """Return where the groups of this kind are mounted, and which group is shown there."""
    for line in _lines(proc / "self" / "mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if kinds[:1] == [kind] and (kind == "cgroup2" or "memory" in kinds[-1].split(",")):
            return Path(_OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])), fields[3]
    return _USUAL_MOUNTS[kind], "/"


def _below(group: str, root: str) -> Path:
    """Return a group's path below what is mounted; that itself, where the group is not seen from here."""
    parts, above = Path(group).parts[1:], Path(root).parts[1:]
    is_seen = parts[: len(above)] == above and ".." not in parts
    return Path(*parts[len(above) :]) if is_seen else Path()


def _limits_of(folder: Path, kind: str) -> Iterator[tuple[int, int]]:
    try:
        taken = int((folder / _TAKEN[kind]).read_text(encoding="utf-8"))
        counts = _numbers((folder / "memory.stat").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the group has no memory controller
        return
    kept = taken - sum(counts.get(name, 0) for name in _DROPPABLE[kind])
    for name in _LIMITS[kind]:
        try:
            limit = int((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # "max"
            continue
        yield limit, limit - max(kept, 0)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return []


def _numbers(text: str) -> dict[str, int]:
    """Read lines of a name and a number, and perhaps a unit."""
    fields = (line.split() for line in text.splitlines())
    return {field[0]: int(field[1]) for field in fields if len(field) > 1 and field[1].isdigit()}
