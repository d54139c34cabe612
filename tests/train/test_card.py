"""The model card of real runs: its code works as it stands, and nothing private stands in it."""

import io
import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from trained import ROWS
from vision import draw, save_vision_model

from lorakit.cli import main

SYSTEM = 'Be "kind" | brief.\n---\n```'
THOROUGH = ("--num_train_epochs", "40", "--learning_rate", "2e-2", "--set=trainer_args={save_strategy: 'no'}")


def card(folder):
    return (folder / "lora_model" / "README.md").read_text(encoding="utf-8")


def run_code(shown, capsys, replacements):
    """Execute the PEFT code of a card and return what it prints."""
    [(_, code)] = re.findall(r"^(`{3,})python\n(.*?)\n\1$", shown, re.DOTALL | re.MULTILINE)
    for placeholder, real in replacements.items():
        assert placeholder in code
        code = code.replace(placeholder, str(real))
    capsys.readouterr()
    exec(compile(code, "card", "exec"), {})
    return capsys.readouterr().out


@pytest.mark.every(0)
@pytest.mark.parametrize(
    "family", ["qwen3", *(pytest.param(family, marks=pytest.mark.slow) for family in ("llama", "gpt2"))]
)
def test_its_code_for_peft_answers_as_lorakit_does(command, model_folder, capsys, monkeypatch, family):
    code, folder = command(*THOROUGH, "--set", f"system_prompt={json.dumps(SYSTEM)}", family=family)
    assert code == 0
    places = {"path/to/this/folder": folder / "lora_model", f"path/to/{family}": model_folder(family)}
    questions = [row["text"] for row in ROWS]
    answers = [run_code(card(folder), capsys, places | {"Your question": question}) for question in questions]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(questions)))
    options = ("--set=max_new_tokens=256", "--set=clean_repetition=false")
    assert command(*options, family=family, task="inference")[0] == 0
    assert "".join(answers) == capsys.readouterr().out
    assert {row["target"] + "\n" for row in ROWS} & set(answers), "something has been learnt"


@pytest.mark.slow
def test_its_code_for_pictures_answers_as_lorakit_does(tmp_path, capsys, monkeypatch):
    model = save_vision_model(tmp_path / "model")
    colours = ("red", "green", "blue")
    pictures = {colour: draw(tmp_path / f"{colour}.png", (70, 50), colour) for colour in colours}
    rows = [{"text": "什么颜色？", "target": colour, "image": f"{colour}.png"} for colour in colours]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "empty.yaml").write_text("")
    settings = {"train_file": tmp_path / "rows.json", "validation_file": "null", "target_modules": "all-linear"}
    settings |= {"torch_dtype": "float32", "min_pixels": 256, "max_pixels": 4096, "lora_dropout": 0}
    places = ["--config", str(tmp_path / "empty.yaml"), "--model_name_or_path", str(model)]
    command = [
        *places,
        "--output_dir",
        str(tmp_path / "out"),
        *(f"--set={key}={value}" for key, value in settings.items()),
    ]
    assert main(["--task", "train", *command, *THOROUGH, "--max_new_tokens=8"]) == 0
    shown = card(tmp_path / "out")
    assert ModelCard(shown).data.pipeline_tag == "image-text-to-text"
    assert "learnt by heart" in shown
    answers = {}
    for colour, picture in pictures.items():
        places = {"path/to/this/folder": tmp_path / "out" / "lora_model", "path/to/model": model}
        answers[colour] = run_code(shown, capsys, places | {"Your question": "什么颜色？", "picture.png": picture})
        monkeypatch.setattr("sys.stdin", io.StringIO("什么颜色？\n"))
        options = ("--max_new_tokens=256", "--set=clean_repetition=false", "--image", picture)
        assert main(["--task", "inference", *command, *options]) == 0
        assert answers[colour] == capsys.readouterr().out
    assert len(set(answers.values())) > 1, "the picture makes a difference"


def test_no_text_of_a_row_and_no_folder_of_this_machine_stands_in_it(command, tmp_path, write_rows):
    rows = [*ROWS, {"text": "an unusable row"}]
    _, folder = command("--num_train_epochs", "1", f"--set=train_file={write_rows(rows, 'mine.json')}")
    shown = card(folder)
    assert "mine.json" in shown
    for row in ROWS:
        assert row["text"] not in shown
        assert row["target"] not in shown
    assert "unusable" not in shown
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    for answer in (row[name] for row in predictions for name in ("base", "tuned")):
        assert len(answer) < 4 or answer not in shown
    assert str(tmp_path) not in shown
    assert str(Path.home()) not in shown
    assert not re.search(r"(?:^|[\s\"'`(=])/[\w.-]+/", shown)


def test_it_says_what_the_run_found(command):
    _, folder = command("--num_train_epochs", "2", "--lora_r", "4", "--set=seed=7")
    shown = card(folder)
    front = yaml.safe_load(shown.split("---\n")[1])
    assert front == {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "lorakit"]}
    results = json.loads((folder / "eval_results.json").read_text())
    tuned, base = results["tuned"]["loss"], results["base"]["loss"]
    assert f"| loss (nats per target token) | {base:.4f} | {tuned:.4f} |" in shown
    assert "| rank (r) | 4 |" in shown
    assert "| seed | 7 |" in shown
    assert "| rows | 5 | 2 |" in shown
    record = json.loads((folder / "lora_model" / "lorakit.json").read_text())
    assert record["base_fingerprint"][:12] in shown
    assert record["template_hash"][:12] in shown


def test_the_best_adapter_of_a_run_and_the_next_run_have_their_own(command):
    code, folder = command("--num_train_epochs", "3", "--set=load_best_model=true")
    assert code == 0
    assert "the one of the lowest validation loss" in card(folder)
    command("--num_train_epochs", "1", "--lora_r", "2")
    assert "| rank (r) | 2 |" in card(folder)
    assert "| rank (r) | 8 |" in card(folder / "previous" / "1")


def test_an_evaluation_leaves_it_as_it_was(command):
    _, folder = command("--num_train_epochs", "1")
    before = card(folder)
    adapter = ("--lora_model_path", str(folder / "lora_model"))
    assert command(*adapter, "--lora_r", "64", folder="other", task="evaluate")[0] == 0
    assert card(folder) == before


def test_an_adapter_without_a_card_has_none_of_another_make(command, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lorakit.train.finishing.compare", killed)
    _, folder = command("--num_train_epochs", "1")
    assert (folder / "lora_model" / "adapter_model.safetensors").is_file()
    assert not (folder / "lora_model" / "README.md").exists(), "PEFT's would name the folder of the base"
