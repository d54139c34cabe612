"""The preview of every shape of row, as it looks in a terminal 80 columns wide."""

import io
import json
import re

import pytest
from rich.cells import cell_len
from rich.console import Console
from row_shapes import SHAPES
from vision import draw, save_vision_model

from lorakit import console
from lorakit.cli import main

COLUMNS = 80
SOME = ("alpaca with input", "Anthropic", "GB18030", "weight 0", "Complex_CoT")
SHOWN = [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]
MARKED = re.compile(r"\x1b\[30;42m(.*?)\x1b\[0m", re.DOTALL)
STYLE = re.compile(r"\x1b\[[0-9;]*m")
PICTURES = {
    "image": {"image": "cat.png", "text": "<image>What is it?", "target": "A cat."},
    "a column of pictures": {"images": ["cat.png"], "prompt": "What is it?", "completion": "A cat."},
    "a part": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "What is it?"}],
            },
            {"role": "assistant", "content": "A cat."},
        ]
    },
}


@pytest.fixture
def terminal(monkeypatch):
    """What a person sees: all that is printed, in colour, 80 columns wide."""
    seen = io.StringIO()
    screen = Console(file=seen, force_terminal=True, color_system="standard", width=COLUMNS, legacy_windows=False)
    monkeypatch.setattr(console, "_out", lambda: screen)
    monkeypatch.setattr(console, "_err", lambda: screen)
    return seen


def preview(model, file, settings=()):
    options = [f"--set={name}={json.dumps(value, ensure_ascii=False)}" for name, value in settings]
    options += [f"--set=train_file={file}", "--set=validation_file=null"]
    return main(["--task", "preview", "--model_name_or_path", str(model), *options])


def check(shown, trained, masked):
    lines = STYLE.sub("", shown).splitlines()
    command = [line for line in lines if line.startswith("  ") and "--task" in line]  # to be pasted, so never broken
    assert not [line for line in lines if cell_len(line) > COLUMNS and line not in command]
    marked = "".join(MARKED.findall(shown)).replace("\n", "")
    rows = shown.partition("counts")[0]
    unmarked = STYLE.sub("", MARKED.sub("", rows)).replace("|", "").replace("\n", "")
    for text in trained:
        assert text.replace(" ", "") in marked.replace(" ", "")
    for text in masked:
        assert text.replace(" ", "") in unmarked.replace(" ", "")
        assert text.replace(" ", "") not in marked.replace(" ", "")


def texts(shape):
    """What of a shape is trained, and what is not."""
    trained, masked = [], []
    for place, message in enumerate(shape.messages):
        is_answer = message["role"] == "assistant"
        is_trained = is_answer if shape.trained is None else place in shape.trained
        text = message["content"].replace("\n", "⏎")
        (trained if is_trained else masked).append(text)
        if is_trained:
            trained += [message.get("reasoning_content", "")]
            trained += [call["function"]["name"] for call in message.get("tool_calls", ())]
    return list(filter(None, trained)), list(filter(None, masked))


@pytest.mark.parametrize("name", SHOWN)
def test_a_terminal_of_80_columns_shows_what_is_trained_and_what_is_not(name, model_folder, tmp_path, terminal):
    shape = SHAPES[name]
    (tmp_path / "rows").write_bytes(shape.content)
    assert preview(model_folder("qwen3"), tmp_path / "rows", shape.settings) == 0
    check(terminal.getvalue(), *texts(shape))


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_so_do_rows_with_pictures(name, tmp_path, terminal, write_rows):
    model = save_vision_model(tmp_path / "model")
    draw(tmp_path / "cat.png", (56, 56), "red")
    assert preview(model, write_rows([PICTURES[name]])) == 0
    check(terminal.getvalue(), ["A cat."], ["What is it?"])


def test_there_is_no_line_too_wide_for_chinese_names_and_long_words(model_folder, write_rows, terminal):
    row = {"text": "很长的问题" * 40, "target": "w" * 300, "备注的名字很长很长" * 4: "x", "remark" * 20: "y"}
    assert preview(model_folder("qwen3"), write_rows([row])) == 0
    check(terminal.getvalue(), ["w" * 300], ["很长的问题" * 40])
