"""Whatever number of processes encodes a file, its columns are the same."""

import json
import os
import signal
import sys

import pytest
from conftest import family_tokenizer

from lorakit.config import Config
from lorakit.data_processing import ChatFormat, reading
from lorakit.data_processing.dataset import RowSource
from lorakit.data_processing.files.opening import Reading
from lorakit.data_processing.reading import read_all
from lorakit.data_processing.shapes.formats import RowRules
from lorakit.data_processing.tokens import side_processes
from lorakit.data_processing.tokens.side_processes import SideProcesses, cores
from lorakit.data_processing.tokens.written_rows import Encoding
from lorakit.libraries import settle_libraries

ENCODING = Encoding(RowRules.of(Config(), False), ChatFormat(family_tokenizer("qwen3")), 60, trains_reasoning=True)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are not copied elsewhere")


def row(number):
    """One of many shapes, some of which cannot be used, are cut, or make several sequences."""
    question, answer = f"How far is {number}?", f"{number % 7} miles."
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] * 2
    return [
        {"text": question, "target": answer, "id": number},
        {"messages": turns},
        {"question": question, "answer": answer if number % 5 else ""},
        {"text": question * 30, "target": answer, f"more {number % 4}": "x"},
        {"text": question, "target": f"<think>\n{number}\n</think>\n\n{answer}"},
        {"instruction": question, "input": "", "output": answer, "mood": "calm"},
    ][number % 6]


@pytest.fixture
def sources(tmp_path):
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for file, begin in zip(files, (0, 120), strict=True):
        file.write_text("".join(json.dumps(row(number)) + "\n" for number in range(begin, begin + 120)), "utf-8")
    return [(RowSource(path=str(file)), Reading("auto", frozenset())) for file in files]


def outcome(sources):
    rows = read_all(sources, ENCODING, None)
    arrays = {name: column.tobytes() for name, column in rows.columns.arrays.items()}
    return arrays, rows.columns.beginnings, rows.rejected, rows.fields, rows.bounds


@pytest.fixture
def spread_at_once(monkeypatch):
    monkeypatch.setattr(reading, "_ENOUGH_TO_SPREAD", 1)
    monkeypatch.setattr(reading, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(side_processes, "cores", lambda: 3)
    monkeypatch.setattr(side_processes, "_LEAST_CORES", 3)


def test_several_processes_make_the_columns_of_one(sources, spread_at_once, monkeypatch):
    started = []
    spread = SideProcesses.spread
    monkeypatch.setattr(SideProcesses, "spread", lambda self: (spread(self), started.append(len(self._sides))))
    together = outcome(sources)
    assert started == [3]
    monkeypatch.setattr(SideProcesses, "can_spread", False)
    assert outcome(sources) == together
    assert len(together[2]) > 4  # rows that cannot be used


def test_with_fewer_cores_than_pay_one_process_does_it(sources, spread_at_once, monkeypatch):
    monkeypatch.setattr(side_processes, "_LEAST_CORES", 4)
    monkeypatch.setattr(SideProcesses, "spread", lambda self: pytest.fail("was spread"))
    outcome(sources)


def test_one_that_ends_is_done_without(sources, spread_at_once, monkeypatch):
    calls = []
    write = SideProcesses.write

    def killing(self, chunk, written):
        calls.append(len(self._sides))
        if len(calls) == 8:
            os.kill(self._sides[0].process.pid, signal.SIGKILL)
            self._sides[0].process.join()
        if len(calls) == 20:
            for side in self._sides:
                os.kill(side.process.pid, signal.SIGKILL)
        write(self, chunk, written)

    monkeypatch.setattr(SideProcesses, "write", killing)
    found = outcome(sources)
    assert 2 in calls
    assert calls[-1] == 0
    monkeypatch.setattr(SideProcesses, "can_spread", False)
    monkeypatch.setattr(SideProcesses, "write", write)
    assert outcome(sources) == found


def test_none_is_left_when_reading_is_interrupted(sources, spread_at_once, monkeypatch):
    seen = []

    def interrupted(self, chunk, written):
        if self._sides:
            seen.extend(side.process for side in self._sides)
            raise KeyboardInterrupt
        self._encoder.write(chunk, written)

    monkeypatch.setattr(SideProcesses, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        outcome(sources)
    assert len(seen) == 3
    assert not any(process.is_alive() for process in seen)


@pytest.mark.parametrize(("variable", "count"), [("OMP_NUM_THREADS", 1), ("RAYON_NUM_THREADS", 2)])
def test_as_many_cores_are_used_as_are_allowed(variable, count, monkeypatch, tmp_path):
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    settle_libraries()  # what the command sets by itself is no limit
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(side_processes, "_CONTROL_GROUP", tmp_path)
    assert cores() == 8
    (tmp_path / "cpu.max").write_text("350000 100000\n")
    assert cores() == 4
    monkeypatch.setenv(variable, str(count))
    assert cores() == count
