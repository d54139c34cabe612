import mmap
import sys

import psutil
import pytest

from lorakit.engine.runtime import machine_memory as module
from lorakit.engine.runtime.machine_memory import machine_memory, resident_bytes

TOTAL, FREE = 1_000_000, 900_000
NO_LIMIT_V1 = 9223372036854771712  # as the kernel writes it, in whole pages
HYBRID = "4:cpu,memory:/job/step\n2:cpuset:/\n0::/\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that writes a machine's /proc and its control groups, and returns the former."""
    machine = type("Machine", (), {"total": TOTAL, "available": FREE})
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: machine)

    def write(groups, mounts=(("cgroup2", "/", "rw"),), folders=(), place="sys/fs/cgroup"):
        own = tmp_path / "proc" / "self"
        own.mkdir(parents=True)
        (own / "cgroup").write_text(groups)
        lines = ["22 1 0:5 / /proc rw - proc proc rw"]
        for kind, root, options in mounts:
            mount = str(tmp_path / place / ("memory" if kind == "cgroup" else "")).rstrip("/").replace(" ", "\\040")
            lines.append(f"31 23 0:28 {root} {mount} rw,relatime shared:9 - {kind} cgroup {options}")
        (own / "mountinfo").write_text("\n".join(lines) + "\n")
        for name, files in dict(folders).items():
            folder = tmp_path / place / name
            folder.mkdir(parents=True, exist_ok=True)
            for file, value in files.items():
                (folder / file).write_text(f"{value}\n")
        return tmp_path / "proc"

    return write


def v2(limit, taken, active=0, inactive=0, **other):
    stat = f"anon {taken - active - inactive}\nfile {active + inactive}\nactive_file {active}\ninactive_file {inactive}"
    return {"memory.max": limit, "memory.current": taken, "memory.stat": stat, **other}


def v1(limit, taken, droppable=0):
    stat = f"cache 7\ntotal_active_file {droppable}\ntotal_inactive_file 0"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": taken, "memory.stat": stat}


CASES = {
    "its own group has the limit": (
        "0::/user/app",
        [("cgroup2", "/", "rw")],
        {"": {}, "user": v2("max", 9000), "user/app": v2(5000, 1000)},
        (5000, 4000),
    ),
    "a group above has less left": (
        "0::/user/app",
        [("cgroup2", "/", "rw")],
        {"user": v2(8000, 7500), "user/app": v2(5000, 1000)},
        (5000, 500),
    ),
    "the limit is two groups above": (
        "0::/a/b/c",
        [("cgroup2", "/", "rw")],
        {"a": v2(6000, 2000), "a/b": v2("max", 2000), "a/b/c": {}},
        (6000, 4000),
    ),
    "a group beside it does not count": (
        "0::/a/b",
        [("cgroup2", "/", "rw")],
        {"a": v2("max", 10), "a/b": v2(5000, 0), "a/c": v2(10, 10)},
        (5000, 5000),
    ),
    "a container sees its group as the root": ("0::/", [("cgroup2", "/", "rw")], {"": v2(5000, 1000)}, (5000, 4000)),
    "a container sees only its own group, under its whole name": (
        "0::/docker/abc/job",
        [("cgroup2", "/docker/abc", "rw")],
        {"": v2(5000, 1000), "job": v2(4500, 1000)},
        (4500, 3500),
    ),
    "its group lies outside of what it sees": (
        "0::/../other",
        [("cgroup2", "/", "rw")],
        {"": v2(5000, 1000)},
        (5000, 4000),
    ),
    "pages of files can be dropped": (
        "0::/app",
        [("cgroup2", "/", "rw")],
        {"app": v2(5000, 4500, active=1500, inactive=2000)},
        (5000, 4000),
    ),
    "it is slowed down before it is stopped": (
        "0::/app",
        [("cgroup2", "/", "rw")],
        {"app": v2(5000, 1000, **{"memory.high": 3000})},
        (3000, 2000),
    ),
    "more than its limit is taken": ("0::/app", [("cgroup2", "/", "rw")], {"app": v2(5000, 5100)}, (5000, 0)),
    "there is no limit": ("0::/app", [("cgroup2", "/", "rw")], {"app": v2("max", 1000)}, (TOTAL, FREE)),
    "the limit is larger than the machine": ("0::/a", [("cgroup2", "/", "rw")], {"a": v2(2 * TOTAL, 0)}, (TOTAL, FREE)),
    "the first version, with limits above": (
        HYBRID,
        [("cgroup", "/", "rw,cpuset"), ("cgroup", "/", "rw,cpu,memory"), ("cgroup2", "/", "rw")],
        {"memory": v1(NO_LIMIT_V1, 9), "memory/job": v1(6000, 2000, 500), "memory/job/step": v1(NO_LIMIT_V1, 9)},
        (6000, 4500),
    ),
    "the first version in a container": (
        HYBRID,
        [("cgroup", "/job/step", "rw,memory")],
        {"memory": v1(6000, 2000)},
        (6000, 4000),
    ),
    "the mounts cannot be told": ("0::/app", [], {}, (TOTAL, FREE)),
    "there are no groups": ("", [], {}, (TOTAL, FREE)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_smallest_limit_of_all_groups_above_counts(machine, name):
    groups, mounts, folders, expected = CASES[name]
    found = machine_memory(machine(groups, mounts, folders))
    assert (found.total, found.free) == expected
    assert found.whose == ("the container's" if found.total < TOTAL else "the machine's")


def test_groups_may_be_mounted_where_there_are_spaces(machine):
    proc = machine("0::/app", folders={"app": v2(5000, 1000)}, place="sys/my groups")
    assert machine_memory(proc).free == 4000


def test_where_the_kernel_tells_nothing_the_machine_counts(machine, tmp_path):
    machine("")
    assert machine_memory(tmp_path / "nowhere").free == FREE


def test_pages_of_files_are_told_from_a_process_s_own(tmp_path):
    own = tmp_path / "self"
    own.mkdir()
    (own / "status").write_text("Name:\tpython\nVmRSS:\t60 kB\nRssAnon:\t30 kB\nRssFile:\t25 kB\nRssShmem:\t5 kB\n")
    assert resident_bytes(tmp_path) == (60 * 1024, 35 * 1024)


def test_an_older_kernel_shows_only_the_whole(tmp_path):
    whole, own = resident_bytes(tmp_path)
    assert whole == own == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_a_file_that_is_mapped_is_resident_but_not_the_process_s_own(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)) * 131_072)  # 32 MiB
    whole, own = resident_bytes()
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[place] for place in range(0, len(mapped), 4096)) == 0
        more, more_own = resident_bytes()
    assert more - whole > 30e6
    assert more_own - own < 3e6
