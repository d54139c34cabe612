import math

import pytest

from lorakit.errors import RunError
from lorakit.runs import EvaluationRecord, RecordLog, StepRecord, read_records


def step(number):
    return StepRecord(number, number / 2, 1.5, 1e-3, 0.25, 2, 30, 10, 0.1)


def test_records_come_back_as_they_were_written(tmp_path):
    log = RecordLog(tmp_path)
    validation = EvaluationRecord(1, 0.5, 2.0, 5, 50, 0.3)
    for record in (step(1), validation, step(2)):
        log.append(record)
    assert list(read_records(tmp_path)) == [step(1), validation, step(2)]


def test_a_new_log_starts_empty_and_a_resumed_one_keeps_what_was_saved(tmp_path):
    log = RecordLog(tmp_path)
    for number in (1, 2, 3):
        log.append(step(number))
    RecordLog(tmp_path, after_step=2).append(step(3))
    assert [record.step for record in read_records(tmp_path)] == [1, 2, 3]
    RecordLog(tmp_path)
    assert list(read_records(tmp_path)) == []


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    RecordLog(tmp_path).append(step(1))
    with open(tmp_path / "events.jsonl", "a") as stream:
        stream.write('{"event": "step", "st')
    assert list(read_records(tmp_path)) == [step(1)]


def test_records_without_end_of_a_step_are_refused_before_all_are_read(tmp_path):
    log = RecordLog(tmp_path)
    log.append(step(1))
    line = (tmp_path / "events.jsonl").read_text()
    (tmp_path / "events.jsonl").write_text(line * 1000 + "no record\n")
    with pytest.raises(RunError, match="has more records than 2 steps leave"):
        RecordLog(tmp_path, after_step=2)
    (tmp_path / "events.jsonl").write_text(line * 50)  # of which there may be some: a plan for each halving
    RecordLog(tmp_path, after_step=2)


def test_what_was_no_finite_number_is_read_as_none(tmp_path):
    overflowed = StepRecord(1, 0.5, 1.5, 1e-3, float("inf"), 2, 30, 10, 0.1)
    RecordLog(tmp_path).append(overflowed)
    [found] = read_records(tmp_path)
    assert math.isnan(found.grad_norm)
