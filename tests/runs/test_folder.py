import errno
import os
import subprocess
import sys

import pytest

from lorakit.errors import RunError
from lorakit.runs import archive_previous_run, explaining_write_errors, open_folder, write_json, writing_alone


def test_a_folder_is_made_with_its_parents(tmp_path):
    assert open_folder(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        open_folder(tmp_path / "taken")


def test_a_second_run_in_one_folder_is_refused_until_the_first_has_ended(tmp_path):
    with writing_alone(tmp_path):
        program = (
            "from pathlib import Path; from lorakit.runs import writing_alone; "
            f"writing_alone(Path({str(tmp_path)!r})).__enter__()"
        )
        second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "another run is writing into" in second.stderr
    with writing_alone(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG])
def test_a_folder_that_can_no_longer_be_written_is_explained(tmp_path, number):
    with pytest.raises(RunError, match="can no longer be written") as found, explaining_write_errors(tmp_path, "again"):
        raise OSError(number, os.strerror(number))
    assert found.value.hint == "again"


def test_a_missing_file_somewhere_else_keeps_its_own_error(tmp_path):
    with pytest.raises(FileNotFoundError), explaining_write_errors(tmp_path / "run", "again"):
        (tmp_path / "other").read_text()


def test_an_earlier_run_is_moved_aside_whole(tmp_path):
    (tmp_path / "events.jsonl").write_text("1")
    (tmp_path / "report.html").write_text("1")
    (tmp_path / "lora_model").mkdir()
    (tmp_path / "checkpoint-8").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "previous").mkdir()
    (tmp_path / "previous" / "older").write_text("")
    archive = archive_previous_run(tmp_path)
    assert sorted(path.name for path in archive.iterdir()) == [
        "checkpoint-8",
        "events.jsonl",
        "lora_model",
        "report.html",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "previous"]


def test_a_folder_without_a_run_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert archive_previous_run(tmp_path) is None
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_json_is_readable_and_leaves_no_temporary_file(tmp_path):
    write_json(tmp_path / "a.json", {"问": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "问": 1\n}\n'
    assert len(list(tmp_path.iterdir())) == 1
