"""What a training says of runs that are there already, and after an interrupt that did not wait."""

import pytest

from lorakit.train.training import _say_what_becomes_of, _saying_what_is_saved


def interrupted(folder):
    with pytest.raises(KeyboardInterrupt), _saying_what_is_saved(folder):
        raise KeyboardInterrupt


def test_before_anything_is_saved_it_says_how_to_begin_again(tmp_path, capsys):
    interrupted(tmp_path)
    said = capsys.readouterr().err
    assert "stopped at once, before anything was saved" in said
    assert "begin again:\n" in said


def test_with_checkpoints_it_names_the_newest_and_the_command_to_go_on(tmp_path, capsys):
    for step in (8, 16):
        (tmp_path / f"checkpoint-{step}").mkdir()
    interrupted(tmp_path)
    said = capsys.readouterr().err
    assert f"saved is all up to step 16, in {tmp_path / 'checkpoint-16'}" in said
    assert "--set resume=true\n" in said


def test_in_the_final_answers_the_adapter_is_whole_and_answers_can_be_made(tmp_path, capsys):
    (tmp_path / "lora_model").mkdir()
    (tmp_path / "lora_model" / "lorakit.json").write_text("{}")
    (tmp_path / "checkpoint-8").mkdir()
    interrupted(tmp_path)
    said = capsys.readouterr().err
    assert f"the adapter is whole in {tmp_path / 'lora_model'}" in said
    assert "--task evaluate" in said
    assert f"--lora_model_path {tmp_path / 'lora_model'}\n" in said


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([], ""),
        (["lora_model", "checkpoint-8"], "it will be kept in"),
        (["checkpoint-8"], "there is an unfinished run in"),
        (["notes.txt.d"], ""),
    ],
)
def test_what_happens_to_an_earlier_run_is_said_before_it_does(tmp_path, capsys, pieces, words):
    for name in pieces:
        (tmp_path / name).mkdir()
    _say_what_becomes_of(tmp_path)
    said = capsys.readouterr().err
    assert words in said
    assert bool(said) == bool(words)
    assert ("--set resume=true" in said) == ("unfinished" in words)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(pieces)
