"""report.html as real runs leave it."""

import json
import re
from functools import partial

import pytest
from report_page import SECTIONS, headings
from trained import ROWS

from lorakit.evaluate.forgetting import QUESTIONS


@pytest.fixture
def command(command):
    """Answers long enough for general questions to be asked."""
    return partial(command, "--max_new_tokens", "8")


def report(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_training_leaves_every_section_and_loads_nothing(command, capsys):
    _, folder = command("--num_train_epochs", "2")
    shown = report(folder)
    assert headings(shown) == SECTIONS
    assert re.findall(r'(?:src|href)="([^"]*)"', shown) == ["data:,"]
    assert not re.search(r"https?://", shown)
    assert all(question in shown for question in QUESTIONS)
    assert all(row["target"] in shown for row in ROWS[:2])
    assert "num_train_epochs: 2" in shown
    assert f"--config {folder.as_posix()}/config_used.yaml --task train" in shown
    assert "written: report.html, " in capsys.readouterr().err


def test_without_validation_the_training_rows_are_answered_and_not_searched_for_copies(command):
    _, folder = command("--num_train_epochs", "1", "--set=validation_file=null")
    shown = report(folder)
    assert headings(shown) == [title for title in SECTIONS if title != "Learnt by heart"]
    assert ">validation</span>" not in shown


def test_rows_with_markup_stay_text(command, write_rows):
    rows = [{"text": f"<script>alert({number})</script>", "target": "<b>bold</b>"} for number in range(3)]
    file = write_rows(rows, "markup.json")
    _, folder = command("--num_train_epochs", "1", f"--set=train_file={file}", f"--set=validation_file={file}")
    shown = report(folder)
    assert "<script" not in shown
    assert "<b>bold" not in shown
    assert "&lt;b&gt;bold&lt;/b&gt;" in shown


def test_evaluation_shows_the_training_that_lies_beside_the_adapter(command, tmp_path, write_rows):
    _, folder = command("--num_train_epochs", "1")
    rows = [*ROWS[3:], {"text": "unusable"}]
    options = ("--lora_model_path", str(folder / "lora_model"), f"--set=validation_file={write_rows(rows, 'new.json')}")
    code, other = command(*options, "--set=train_file=is/not/read.json", folder="other", task="evaluate")
    assert code == 0
    shown = report(other)
    assert headings(shown) == SECTIONS
    assert "new.json item 3: " in shown
    assert "the settings of this evaluate task" in shown
    predictions = [json.loads(line) for line in (other / "predictions.jsonl").read_text().splitlines()]
    assert all(f"{row['text']}</td>" in shown for row in predictions)


def test_an_adapter_alone_is_reported_without_its_training(command, tmp_path, capsys):
    _, folder = command("--num_train_epochs", "1")
    (folder / "lora_model").rename(tmp_path / "adapter")
    options = ("--lora_model_path", str(tmp_path / "adapter"), "--set=train_file=missing.json")
    code, other = command(*options, folder="other", task="evaluate")
    assert code == 0
    expected = ["Scores", "Answers", "Data", "Other questions", "To do it again", "Versions and machine"]
    assert headings(report(other)) == expected
    assert "report.html goes without the training rows" in capsys.readouterr().err


def test_a_base_alone_has_scores_and_answers(command):
    code, folder = command("--use_original_model", task="evaluate")
    assert code == 0
    assert headings(report(folder)) == ["Scores", "Answers", "Data", "To do it again", "Versions and machine"]
    assert "tuned less base" not in report(folder)
