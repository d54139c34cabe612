"""docs/vision.md's commands: a picture drives the answer (slow: two minutes for the base alone)."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
CONFIG = ["--config", "configs/vision-tiny.yaml"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A copy of the project after the base was made and adapted."""
    folder = tmp_path_factory.mktemp("vision") / "lorakit"
    kept_out = shutil.ignore_patterns(".*", "output", "models", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=kept_out)
    run(folder, "scripts/make_vision_tiny.py")
    run(folder, "main.py", "--task", "train", *CONFIG)
    return folder


def run(folder, *words, text=""):
    command = [sys.executable, *words]
    outcome = subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def exact_match(folder):
    scores = json.loads((folder / "output" / "vision-tiny" / "eval_results.json").read_text(encoding="utf-8"))
    return scores["base"]["exact_match"], scores["tuned"]["exact_match"]


def test_held_out_pictures_are_named_far_above_chance(trained):
    base, tuned = exact_match(trained)
    assert base < 0.1
    assert tuned >= 0.5


def test_the_same_question_about_another_picture_gets_another_answer(trained):
    answers = [
        run(
            trained,
            "main.py",
            "--task",
            "inference",
            *CONFIG,
            "--image",
            f"data/vision/images/{name}.png",
            text="图里是什么？",
        )
        for name in ("validation-000", "validation-001")  # red and green circles
    ]
    assert "红色" in answers[0]
    assert "绿色" in answers[1]


def test_with_shuffled_pictures_the_answers_are_no_better_than_chance(trained):
    file = trained / "data" / "vision" / "validation.json"
    rows = [row for row in json.loads(file.read_text(encoding="utf-8")) if row["text"] == "图里是什么？"]
    images = [row["image"] for row in rows]
    shuffled = [row | {"image": images[(place + 7) % len(rows)]} for place, row in enumerate(rows)]
    file.with_name("shuffled.json").write_text(json.dumps(shuffled, ensure_ascii=False), encoding="utf-8")
    run(trained, "main.py", "--task", "evaluate", *CONFIG, "--set", "validation_file=data/vision/shuffled.json")
    assert exact_match(trained)[1] < 0.2
