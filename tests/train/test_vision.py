"""The three commands on a tiny vision-language model and pictures drawn here."""

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from vision import draw, save_vision_model

from lorakit.cli import main
from lorakit.config import Config
from lorakit.data_processing import ImageFormat, Message
from lorakit.engine.images.pictures import pixel_inputs
from lorakit.inference import open_assistant
from lorakit.inference.generation import answer_batch
from lorakit.inference.sampling import SamplingParams
from lorakit.runs import RecordLog, StepRecord
from lorakit.train.planning.trial import Trial

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
    assert command("train", "--verbose") == 0
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


def test_pictures_are_read_in_the_background_and_each_once(command, monkeypatch):
    readers = []
    patches = ImageFormat._patches

    def watched(self, path, version):
        readers.append((Path(path).name, threading.current_thread().name.startswith("lorakit-pictures")))
        return patches(self, path, version)

    monkeypatch.setattr(ImageFormat, "_patches", watched)
    monkeypatch.setattr("lorakit.train.planning.fitting.try_out", with_nothing_kept(readers))
    assert command("train", "--per_device_train_batch_size", "1") == 0
    assert sorted(readers) == [(f"{colour}.png", True) for colour in sorted(COLOURS)]


def with_nothing_kept(readers):
    """What is tried before the first step reads pictures too, on demand: begin anew after it."""
    from lorakit.engine.images import pictures
    from lorakit.train.planning.trial import try_out

    def tried(*arguments):
        found = try_out(*arguments)
        pictures._STORES.clear()
        readers.clear()
        return found

    return tried


@pytest.mark.every(0)
def test_pictures_seen_before_the_first_step_change_nothing(command, monkeypatch, tmp_path):
    def adapter():
        assert command("train", "--set=train_projector=true") == 0
        return load_file(tmp_path / "out" / "lora_model" / "adapter_model.safetensors")

    tried = adapter()
    monkeypatch.setattr("lorakit.train.planning.fitting.try_out", lambda prepared, plan, effort: (Trial(), plan))
    untried = adapter()
    assert tried.keys() == untried.keys()
    assert all(torch.equal(tried[name], untried[name]) for name in tried)


def test_answers_from_kept_features_are_those_of_the_plain_model(tmp_path):
    folder = save_vision_model(tmp_path / "model")
    file = draw(tmp_path / "a.png", (70, 50), "red")
    config = Config(
        model_name_or_path=str(folder),
        torch_dtype="float32",
        use_original_model=True,
        min_pixels=256,
        max_pixels=4096,
        max_new_tokens=12,
    )
    assistant = open_assistant(config)
    question = [Message("user", "<image>什么颜色？", (file,))]
    answers = answer_batch(assistant, [question, [Message("user", "你好。")]], SamplingParams.of(config))
    assert answers == answer_batch(assistant, [question, [Message("user", "你好。")]], SamplingParams.of(config))
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([assistant.prompt_ids(question)])
    (picture,) = assistant.chat_format.pictures(question)
    pixels = pixel_inputs([picture], ids.device, lambda picture: picture.read())
    kinds = (ids == assistant.chat_format.images.token_id).int()
    wanted = plain.generate(input_ids=ids, mm_token_type_ids=kinds, max_new_tokens=12, do_sample=False, **pixels)
    new = wanted[0, ids.shape[1] :].tolist()
    tokenizer = assistant.bundle.tokenizer
    stops = [place for place, token in enumerate(new) if token in assistant.stop_ids]
    assert answers[0] == tokenizer.decode(new[: stops[0]] if stops else new, skip_special_tokens=True)


def test_other_pictures_of_equal_size_are_other_rows_to_a_resumed_run(command, capsys, tmp_path):
    assert command("train") == 0
    draw(tmp_path / "images" / "red.png", (70, 50), "yellow")
    assert command("train", "--set=resume=true") == 2
    assert "the training rows have changed" in capsys.readouterr().err


def test_a_picture_that_changes_in_a_run_ends_it_though_its_features_are_kept(command, capsys, monkeypatch, tmp_path):
    append = RecordLog.append

    def append_and_draw(self, record):
        append(self, record)
        if isinstance(record, StepRecord) and record.step == 2:  # of two an epoch
            draw(tmp_path / "images" / "red.png", (70, 50), "yellow")

    monkeypatch.setattr(RecordLog, "append", append_and_draw)
    assert command("train") == 2
    assert "red.png has changed while it was used" in capsys.readouterr().err
