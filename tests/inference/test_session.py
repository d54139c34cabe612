"""Asking, as a person or a pipe does, a tiny model that has learnt five answers by heart."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from lorakit.cli import main
from lorakit.config import Config
from lorakit.data_processing import Message
from lorakit.inference import open_assistant

ROWS = [
    {"text": "怎样睡好？", "target": "早睡早起。"},
    {"text": "怎样吃好？", "target": "多吃蔬菜，少吃糖。"},
    {"text": "Tea?", "target": "Yes,  please.\n- green\n- black"},
]


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory):
    """Model and adapter folder of a run long enough to recite its rows."""
    root = tmp_path_factory.mktemp("session")
    file = root / "train.json"
    file.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
    settings = [
        f"train_file={file}",
        "validation_file=null",
        "target_modules=all-linear",
        "lora_dropout=0",
        "torch_dtype=float32",
        "trainer_args={save_strategy: 'no', warmup_steps: 10}",
        "system_prompt=你是助手。",
    ]
    code = main(
        [
            *("--task", "train", "--model_name_or_path", str(model_folder("llama")), "--output_dir", str(root / "out")),
            *("--num_train_epochs", "80", "--learning_rate", "2e-2", "--lora_r", "16"),
            *(f"--set={setting}" for setting in settings),
        ]
    )
    assert code == 0
    return SimpleNamespace(model=str(model_folder("llama")), adapter=str(root / "out" / "lora_model"), root=root)


def ask(trained, monkeypatch, text, *extra):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    arguments = ["--model_name_or_path", trained.model, "--lora_model_path", trained.adapter]
    return main(["--task", "inference", *arguments, "--set=torch_dtype=float32", "--max_new_tokens=40", *extra])


def test_a_pipe_gets_the_answers_and_nothing_else(trained, monkeypatch, capsys):
    assert ask(trained, monkeypatch, "怎样睡好？\n\nTea?\nexit\n怎样吃好？\n") == 0
    output = capsys.readouterr()
    assert output.out == "早睡早起。\nYes,  please.\n- green\n- black\n"
    assert output.err.count("输入文本: ") == 4
    assert output.err.count("输出结果: ") == 2
    assert "loaded" in output.err


def test_the_end_of_the_input_ends_the_session(trained, monkeypatch, capsys):
    assert ask(trained, monkeypatch, "怎样吃好？") == 0
    assert capsys.readouterr().out == "多吃蔬菜，少吃糖。\n"


def test_the_original_model_has_learnt_nothing(trained, monkeypatch, capsys):
    assert ask(trained, monkeypatch, "怎样睡好？\n", "--use_original_model") == 0
    assert "早睡早起。" not in capsys.readouterr().out


def test_sampling_varies_with_the_temperature_and_repeats_with_zero(trained, monkeypatch, capsys):
    answers = []
    for temperature in ("0", "0", "5", "5"):
        ask(trained, monkeypatch, "怎样睡好？\n", "--temperature", temperature)
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert answers[2] != answers[3]


def test_the_number_of_new_tokens_is_bounded(trained, monkeypatch, capsys):
    ask(trained, monkeypatch, "怎样吃好？\n", "--max_new_tokens=3")
    assert "多吃蔬菜，少吃糖。".startswith(capsys.readouterr().out.strip().rstrip("\ufffd"))


def test_a_repetition_penalty_changes_the_answer(trained, monkeypatch, capsys):
    ask(trained, monkeypatch, "怎样吃好？\n", "--repetition_penalty", "50")
    assert capsys.readouterr().out != "多吃蔬菜，少吃糖。\n"


def test_the_system_prompt_of_training_is_part_of_every_question(trained):
    config = Config(model_name_or_path=trained.model, lora_model_path=trained.adapter)
    assistant = open_assistant(config)
    text = assistant.bundle.tokenizer.decode(assistant.prompt_ids([Message("user", "q")]))
    assert "你是助手。" in text


def test_another_system_prompt_is_warned_about(trained, monkeypatch, capsys):
    ask(trained, monkeypatch, "exit\n", "--set=system_prompt=other")
    assert "system_prompt differs from the one in training" in capsys.readouterr().err


def test_the_answer_is_what_plain_transformers_generates(trained, monkeypatch, capsys):
    from peft import PeftModel
    from transformers import AutoTokenizer

    ask(trained, monkeypatch, "Tea?\n")
    answer = capsys.readouterr().out
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(trained.model, dtype=torch.float32), trained.adapter
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.adapter)
    messages = [{"role": "system", "content": "你是助手。"}, {"role": "user", "content": "Tea?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    ids = model.generate(**prompt, max_new_tokens=40, do_sample=False, eos_token_id=end, pad_token_id=end)
    assert tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True) + "\n" == answer
    assert int(ids[0, -1]) == end


def test_an_adapter_of_another_base_is_refused(trained, monkeypatch, capsys, model_folder):
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    arguments = ["--model_name_or_path", str(model_folder("qwen3")), "--lora_model_path", trained.adapter]
    assert main(["--task", "inference", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "whose weights are not those of" in output.err


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_an_answer_ends_where_the_model_s_positions_end(model_folder, monkeypatch, capsys, family):
    monkeypatch.setattr("sys.stdin", io.StringIO("长" * 320 + "\n"))
    arguments = ["--model_name_or_path", str(model_folder(family)), "--use_original_model"]
    options = ("--max_new_tokens=5000", "--set=clean_repetition=false", "--set=torch_dtype=float32")
    assert main(["--task", "inference", *arguments, *options]) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_question_longer_than_the_model_is_named_and_the_session_goes_on(trained, monkeypatch, capsys):
    assert ask(trained, monkeypatch, "长" * 3000 + "\n怎样睡好？\n") == 0
    output = capsys.readouterr()
    assert "does not fit this model's 2048" in output.err
    assert output.out == "\n早睡早起。\n"


def test_tools_for_a_template_that_has_no_place_for_them_are_refused_at_once(trained, monkeypatch, tmp_path, capsys):
    (tmp_path / "tools.json").write_text('[{"name": "weather", "parameters": {}}]')
    assert ask(trained, monkeypatch, "怎样睡好？\n", "--tools", str(tmp_path / "tools.json")) == 2
    assert "the chat template has no place for tools" in capsys.readouterr().err
