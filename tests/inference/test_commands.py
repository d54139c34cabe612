"""The commands of a session, with two adapters that have learnt different answers."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from lorakit import console
from lorakit.cli import main
from lorakit.config import Config
from lorakit.inference import open_adapters
from lorakit.inference.commands import COMMANDS, complete
from lorakit.inference.session import Session

QUESTION = "怎样睡好？"
ANSWERS = {"early": "早睡早起。", "green": "多吃蔬菜，少吃糖。"}


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory):
    """A base and an adapter for each answer, with another system prompt each."""
    root = tmp_path_factory.mktemp("commands")
    model = str(model_folder("llama"))
    for name, answer in ANSWERS.items():
        file = root / f"{name}.json"
        file.write_text(json.dumps([{"text": QUESTION, "target": answer}], ensure_ascii=False), encoding="utf-8")
        settings = [f"train_file={file}", "validation_file=null", "target_modules=all-linear", "lora_dropout=0"]
        settings += ["torch_dtype=float32", f"system_prompt={name}", "trainer_args={save_strategy: 'no'}"]
        arguments = ["--task", "train", "--model_name_or_path", model, "--output_dir", str(root / name)]
        arguments += ["--num_train_epochs", "30", "--learning_rate", "2e-2"]
        assert main([*arguments, *(f"--set={setting}" for setting in settings)]) == 0
    return SimpleNamespace(model=model, root=root)


@pytest.fixture
def say(trained, monkeypatch, capsys):
    """Return a function that types lines into a session and returns what it printed."""

    def typed(*lines, adapters=("early", "green")):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        paths = [str(trained.root / name / "lora_model") for name in adapters]
        arguments = ["--task", "inference", "--model_name_or_path", trained.model, "--set=torch_dtype=float32"]
        chosen = ["--lora_model_path", *paths] if paths else ["--use_original_model"]
        assert main([*arguments, "--max_new_tokens=30", *chosen]) == 0
        return capsys.readouterr()

    return typed


def test_inference_begins_with_the_first_adapter_and_changes_on_the_way(say):
    lines = [QUESTION, "/use green", QUESTION, "/base", QUESTION, "/use early", QUESTION]
    first, second, base, again = say(*lines).out.splitlines()
    assert (first, second, again) == (ANSWERS["early"], ANSWERS["green"], ANSWERS["early"])
    assert base not in ANSWERS.values()


def test_adapters_are_listed_with_what_is_in_use(say, trained):
    shown = say("/mix early:0.25 green", "/adapters").err
    assert "in use: early:0.25 + green:1" in shown
    assert f"* early ({trained.root / 'early' / 'lora_model'})  [in use, weight 0.25]" in shown
    assert "different system prompts" in shown


def test_mixing_one_at_full_weight_is_using_it(say):
    assert say("/mix green:1", QUESTION).out.strip() == ANSWERS["green"]


def test_an_adapter_is_loaded_and_taken_out_on_the_way(say, trained):
    path = trained.root / "green" / "lora_model"
    shown = say(f"/load later={path}", "/use later", QUESTION, "/unload later", "/use later", adapters=["early"])
    assert shown.out.strip() == ANSWERS["green"]
    assert "loaded later" in shown.err
    assert "in use: base" in shown.err
    assert "there is no adapter called 'later'" in shown.err


def test_the_original_model_takes_an_adapter_later(say, trained):
    shown = say(QUESTION, f"/load {trained.root / 'early' / 'lora_model'}", "/use early", QUESTION, adapters=[])
    assert shown.out.splitlines()[1:] == [ANSWERS["early"]]


def test_compare_shows_the_base_and_every_adapter_and_leaves_the_choice_alone(say):
    shown = say(QUESTION, "/use green", "/compare", QUESTION)
    table = shown.out.splitlines()
    heading = next(line for line in table if "base" in line)
    assert heading.index("base") < heading.index("early") < heading.index("green")
    assert sum(ANSWERS["early"] in line for line in table) == 2  # as an answer before, and in its column
    assert table[-1] == ANSWERS["green"]


def test_compare_takes_a_question_of_its_own(say):
    assert ANSWERS["green"] in say(f"/compare {QUESTION}").out
    assert "there is no question yet" in say("/compare").err


def test_reset_goes_back_to_the_beginning(say):
    assert say("/use green", "/reset", QUESTION).out.strip() == ANSWERS["early"]
    assert "in use: base" in say("/unload early", "/reset").err


def test_help_names_every_command(say):
    shown = say("/help").err
    assert all(f"  {name}" in shown for name in COMMANDS)


def test_what_help_says_stands_below_its_beginning_in_a_narrow_terminal(monkeypatch):
    drawn = Console(width=80, force_terminal=True, record=True, file=io.StringIO())
    monkeypatch.setattr(console, "_err", lambda: drawn)
    COMMANDS["/help"].run(None, [])
    lines = drawn.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.startswith("  ") for line in lines[1:])
    assert any(line.startswith(" " * 20) for line in lines)


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/comapre", "did you mean /compare?"),
        ("/xyz", "/help lists them"),
        ("/use", "takes one word"),
        ("/use a b", "takes one word"),
        ("/use nobody", "loaded: early, green"),
        ("/load base=nowhere", "is what the base model is called"),
        ("/mix", "names no adapter"),
        ("/mix early:1 early:2", "names an adapter twice"),
        ("/mix early:nan", "the weight of 'early' is nan"),
        ("/load", "takes one word"),
        ("/load nowhere", "there is no adapter here"),
        ("/unload nobody", "there is no adapter called 'nobody'"),
        ("/base now", "takes nothing"),
        ('/load "half', "No closing quotation"),
    ],
)
def test_a_wrong_command_is_explained_and_the_session_goes_on(say, line, said):
    shown = say(line, QUESTION)
    assert said in shown.err
    assert shown.out.strip() == ANSWERS["early"]


def test_use_base_is_base(say):
    assert "in use: base" in say("/use base").err


def test_what_is_left_of_a_mixture_is_asked_as_it_was_trained(trained):
    paths = [str(trained.root / name / "lora_model") for name in ANSWERS]
    config = Config(model_name_or_path=trained.model, lora_model_path=paths, torch_dtype="float32")
    adapters = open_adapters(config)
    adapters.mix({"early": 1.0, "green": 1.0})
    assert adapters.assistant.system_prompt == "early"
    adapters.unload("early")
    assert adapters.assistant.system_prompt == "green"


def test_a_question_to_compare_keeps_its_quotation_marks(say):
    assert 'What\'s "home"?' in say('/compare What\'s "home"?').out


def test_a_question_may_begin_with_a_path(say):
    assert len(say("/usr/bin 是什么？").out.splitlines()) == 1


def test_words_are_completed(trained):
    paths = [str(trained.root / name / "lora_model") for name in ANSWERS]
    config = Config(model_name_or_path=trained.model, lora_model_path=paths, torch_dtype="float32")
    session = Session(open_adapters(config), config)
    assert complete(session, "/un") == ["/unload "]
    assert complete(session, "/use e") == ["early"]
    assert complete(session, "/mix early:1 g") == ["green"]
    found = complete(session, f"/load x={trained.root}/gr")
    assert set(found) == {f"x={trained.root}/green.json", f"x={trained.root}/green/"}
    assert complete(session, "wie ") == []
    assert complete(session, "ques") == []


def test_a_chinese_question_is_not_taken_for_a_command(say):
    assert say("/睡").out.strip() != ""


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "line", ["/help me", "/use", "/use nobody", "/load /nope", "/image x.png", "/base now", "/mix"]
)
def test_what_is_wrong_with_a_command_names_it(say, line):
    warnings = [text for text in say(line).err.splitlines() if text.startswith("warning: ")]
    assert warnings
    assert all(text.startswith(f"warning: {line.split()[0]}: ") for text in warnings)
