import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from lorakit.errors import RunError
from lorakit.runs import check_room, explaining_write_errors, open_folder, write_json, writing_alone


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


WORDS_OF_LIBRARIES = [
    Exception("No space left on device (os error 28)"),  # tokenizers
    RuntimeError("Error while serializing: I/O error: Os { code: 28, kind: StorageFull }"),  # safetensors
    RuntimeError("[enforce fail at inline_container.cc:863] . PytorchStreamWriter failed writing file data.pkl"),
    RuntimeError("basic_ios::clear: iostream error"),
    OSError("16800 requested and 218 written"),
]


@pytest.mark.parametrize("error", WORDS_OF_LIBRARIES, ids=lambda error: str(error)[:20])
def test_a_full_disk_is_recognised_in_the_words_of_any_library(tmp_path, error):
    with pytest.raises(RunError, match="can no longer be written"), explaining_write_errors(tmp_path, "again"):
        raise error


@pytest.mark.parametrize(
    "error", [ValueError("shape"), RuntimeError("out of memory"), OSError("no number"), KeyError(1)]
)
def test_other_errors_keep_their_own_words(tmp_path, error):
    with pytest.raises(type(error)) as found, explaining_write_errors(tmp_path, "again"):
        raise error
    assert found.value is error


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(RunError, match=r"two checkpoints take .* GB, and the disk of .* has .* left"):
        check_room(tmp_path, free + 10**9, "two checkpoints")
    assert "take about 5.00 MB of" in check_room(tmp_path, 5 * 10**6, "two checkpoints")


def test_json_is_readable_and_leaves_no_temporary_file(tmp_path):
    write_json(tmp_path / "a.json", {"问": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "问": 1\n}\n'
    assert len(list(tmp_path.iterdir())) == 1
    write_json(tmp_path / "a.json", {"a": [float("inf"), float("nan"), 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, None, 1.5]}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_fault_of_a_file_somewhere_else_is_not_put_down_to_the_folder(tmp_path, number):
    with pytest.raises(OSError, match="other") as found, explaining_write_errors(tmp_path / "run", "again"):
        raise OSError(number, os.strerror(number), str(tmp_path / "other"))
    assert found.value.errno == number
    for own in ("run/events.jsonl", ".lorakit-writing-run/model.safetensors"):
        with pytest.raises(RunError, match="can no longer be"), explaining_write_errors(tmp_path / "run", "again"):
            raise OSError(number, os.strerror(number), str(tmp_path / own))
