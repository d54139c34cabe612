import pytest

from lorakit.errors import RunError
from lorakit.runs import archive_previous_run, newest_checkpoint, open_folder, write_json


def test_a_folder_is_made_with_its_parents(tmp_path):
    assert open_folder(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        open_folder(tmp_path / "taken")


def test_the_newest_checkpoint_is_by_number_and_complete(tmp_path):
    for number in (9, 80, 100):
        (tmp_path / f"checkpoint-{number}").mkdir()
    for number in (9, 80):
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text("{}")
    assert newest_checkpoint(tmp_path).name == "checkpoint-80"


def test_without_checkpoints_there_is_none(tmp_path):
    assert newest_checkpoint(tmp_path) is None


def test_an_earlier_run_is_moved_aside_whole(tmp_path):
    (tmp_path / "events.jsonl").write_text("1")
    (tmp_path / "lora_model").mkdir()
    (tmp_path / "checkpoint-8").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "previous").mkdir()
    (tmp_path / "previous" / "older").write_text("")
    archive = archive_previous_run(tmp_path)
    assert sorted(path.name for path in archive.iterdir()) == ["checkpoint-8", "events.jsonl", "lora_model"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "previous"]


def test_a_folder_without_a_run_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert archive_previous_run(tmp_path) is None
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_json_is_readable_and_leaves_no_temporary_file(tmp_path):
    write_json(tmp_path / "a.json", {"问": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "问": 1\n}\n'
    assert len(list(tmp_path.iterdir())) == 1
