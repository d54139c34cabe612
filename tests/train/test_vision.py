"""The three commands on a tiny vision-language model and pictures drawn here."""

import json

import pytest
from vision import draw, save_vision_model

from lorakit.cli import main

COLOURS = ("red", "green", "blue")


@pytest.fixture
def command(tmp_path):
    model = save_vision_model(tmp_path / "model")
    rows = [{"text": "什么颜色？", "target": colour, "image": f"images/{colour}.png"} for colour in COLOURS]
    (tmp_path / "images").mkdir()
    for colour in COLOURS:
        draw(tmp_path / "images" / f"{colour}.png", (70, 50), colour)
    rows += [{"text": "你好。", "target": "你好。"}, {"text": "坏。", "target": "坏。", "image": "images/none.png"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "empty.yaml").write_text("")

    def run(task, *extra):
        settings = {"train_file": tmp_path / "rows.json", "validation_file": tmp_path / "rows.json"}
        settings |= {"torch_dtype": "float32", "target_modules": "all-linear", "lora_dropout": 0}
        settings |= {"min_pixels": 256, "max_pixels": 4096, "max_new_tokens": 6, "num_train_epochs": 2}
        places = ["--model_name_or_path", str(model), "--output_dir", str(tmp_path / "out")]
        assignments = [f"--set={name}={value}" for name, value in settings.items()]
        return main(["--task", task, "--config", str(tmp_path / "empty.yaml"), *places, *assignments, *extra])

    return run


def test_training_evaluation_and_asking_with_pictures(command, capsys, monkeypatch, tmp_path):
    assert command("preview") == 0
    shown = capsys.readouterr().out
    assert "[red.png: 12 tokens]" in shown
    assert "does not exist (paths in rows are relative to the data file)" in shown
    assert command("train") == 0
    told = capsys.readouterr()
    assert "language: " in told.out + told.err
    answers = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert len(answers) == 4
    assert command("evaluate") == 0
    capsys.readouterr()
    lines = iter(
        ["什么颜色？", f"/image {tmp_path}/images/blue.png", "什么颜色？", "/image nowhere.png", "/image", "嗨"]
    )
    monkeypatch.setattr("lorakit.console.prompt", lambda _: next(lines, "exit"))
    assert command("inference", "--image", str(tmp_path / "images" / "red.png")) == 0
    told = capsys.readouterr()
    assert "picture nowhere.png does not exist" in told.err
    assert "1 pictures, 12 tokens" in told.out + told.err


def test_a_picture_that_is_not_there_ends_the_session_before_it_begins(command, capsys):
    assert command("inference", "--use_original_model", "--image", "nowhere.png") == 2
    assert "picture nowhere.png does not exist" in capsys.readouterr().err
