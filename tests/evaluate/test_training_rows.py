"""An adapter comes from anybody, and the settings beside it too: what they name is read where it lies near, or not."""

import pytest
import yaml

from lorakit.config import Config
from lorakit.errors import SettingsError
from lorakit.evaluate import _used_in_training


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    for name in ("here", "project/run", "private"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "rows.json").write_text("[]")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "project" / "run"


def named(run_folder, train_file):
    (run_folder / "config_used.yaml").write_text(yaml.safe_dump({"train_file": train_file}))
    return _used_in_training(run_folder, Config(train_file="mine.json")).train_file


def test_rows_beside_the_run_and_below_where_we_stand_are_read(run_folder):
    near = run_folder.parent / "rows.json"
    near.write_text("[]")
    assert named(run_folder, str(near)) == str(near)
    assert named(run_folder, "rows.json") == "rows.json"
    assert named(run_folder, "mine.json") == "mine.json"  # named by this task too


def test_other_rows_are_neither_read_nor_fetched(run_folder):
    private = run_folder.parents[1] / "private" / "rows.json"
    (run_folder / "link.json").symlink_to(private)
    for train_file in (str(private), "stranger/rows", "/etc/passwd", str(run_folder / "link.json"), [{"path": "a/b"}]):
        with pytest.raises(SettingsError, match="names rows of other folders"):
            named(run_folder, train_file)


def test_settings_that_are_a_link_are_not_read(run_folder):
    private = run_folder.parents[1] / "private" / "config_used.yaml"
    private.write_text("train_file: mine.json")
    (run_folder / "config_used.yaml").symlink_to(private)
    with pytest.raises(SettingsError, match="is a link that leads out"):
        _used_in_training(run_folder, Config(train_file="mine.json"))


def test_without_settings_those_of_the_task_are_taken(run_folder):
    config = Config(train_file="mine.json")
    assert _used_in_training(run_folder, config) is config
