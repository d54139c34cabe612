import subprocess
import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import psutil
from measure import beside, run_child

STEP = '{"event": "step", "step": 1}'


def python(program):
    return [sys.executable, "-S", "-c", program]


def printed_by(program):
    outcome = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    )
    return outcome.stdout.strip()


def test_each_child_has_its_own_peak_of_memory(tmp_path):
    small, large = python("pass"), python("held = bytes(range(256)) * 400_000")  # 102 MB
    peaks = printed_by(
        "import pathlib; from measure import run_child; "
        f"print([run_child(words, pathlib.Path({str(tmp_path)!r})).peak_bytes for words in {[small, large, small]!r}])"
    )
    before, largest, after = [int(peak) for peak in peaks.strip("[]").split(",")]
    assert largest > 102e6
    assert max(before, after) < 60e6


def test_the_measuring_process_stays_small_since_its_children_begin_at_its_size():
    assert printed_by("import bench, sys; print({'torch', 'numpy', 'lorakit'} & set(sys.modules))") == "set()"


def test_events_are_read_up_to_the_last_whole_line(tmp_path):
    text = STEP + "\n" + '{"half a line'
    found = run_child(python(f"open({str(tmp_path / 'events.jsonl')!r}, 'w').write({text!r})"), tmp_path)
    assert found.failure is None
    assert found.events == ({"event": "step", "step": 1},)


def test_a_child_that_fails_says_why(tmp_path):
    found = run_child(python("raise ImportError('libaudio is missing')"), tmp_path)
    assert found.failure == "ended with 1: ImportError: libaudio is missing"
    assert (found.first_step_seconds, found.events) == (None, ())
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_a_child_that_takes_too_long_is_ended(tmp_path):
    found = run_child(python("import signal; signal.pause()"), tmp_path, limit_seconds=0)
    assert found.failure.startswith("ended with -9")


def test_the_machine_is_kept_busy_meanwhile_and_no_longer():
    def children():
        return set(psutil.Process().children())

    before = children()
    with beside(2):
        busy = children() - before
        assert len(busy) == 2
    assert not any(process.is_running() for process in busy)
