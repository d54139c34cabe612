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


def test_a_question_of_several_lines_is_one_question(trained, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("lorakit.inference.session.Session.ask", lambda self, text: asked.append(text))
    lines = '"""first\n\n  second\nthird"""\n"""\nalone\n"""\n"""one"""\n"""never\nended\n'
    assert ask(trained, monkeypatch, lines) == 0
    assert asked == ["first\n\n  second\nthird", "alone", "one", "never\nended"]


def test_a_question_of_the_command_line_is_taken_as_it_stands_there(trained, monkeypatch, capsys):
    assert ask(trained, monkeypatch, "", "--question", "怎样睡好？") == 0
    assert capsys.readouterr().out == "早睡早起。\n"
    asked = []
    monkeypatch.setattr("lorakit.inference.session.Session.ask", lambda self, text: asked.append(text))
    assert ask(trained, monkeypatch, "", "--question", "a: b\n- c [") == 0
    assert asked == ["a: b\n- c ["]


def test_a_file_of_questions_is_answered_in_order_and_gone_on_with(trained, monkeypatch, tmp_path, capsys):
    questions = tmp_path / "questions.jsonl"
    rows = [
        *({"id": number, "text": row["text"]} for number, row in enumerate(ROWS)),
        {"messages": [{"role": "user", "content": "怎样睡好？"}]},
        {"text": 3.5, "label": [1]},
        {"nothing": "here"},
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    how = ("--question_file", str(questions), "--set=per_device_eval_batch_size=2")
    assert ask(trained, monkeypatch, "", *how) == 2  # one row has no question
    assert (
        f"error: {tmp_path}/questions.answers.jsonl: 1 of 6 questions could not be answered" in capsys.readouterr().err
    )
    file = tmp_path / "questions.answers.jsonl"
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [{key: value for key, value in line.items() if key not in ("generated", "error")} for line in found] == rows
    assert [line["generated"] for line in found[:4]] == [*(row["target"] for row in ROWS), ROWS[0]["target"]]
    assert "error" in found[5]
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(b"\n") + 30])  # one answer, and a part of the next
    assert ask(trained, monkeypatch, "", *how) == 2
    assert file.read_bytes() == whole
    file.write_text('{"text": "another"}\n')
    assert ask(trained, monkeypatch, "", *how) == 2
    assert file.read_text() == '{"text": "another"}\n'


def test_json_lines_come_in_and_go_out(trained, monkeypatch, capsys):
    lines = [json.dumps({"text": ROWS[0]["text"], "id": 7}), json.dumps(ROWS[1]["text"]), "{broken"]
    assert ask(trained, monkeypatch, "\n".join(lines) + "\n", "--jsonl") == 2
    said = capsys.readouterr()
    assert "error: standard input: 1 of 3 questions could not be answered" in said.err
    first, second, third = map(json.loads, said.out.splitlines())
    assert first == {"text": ROWS[0]["text"], "id": 7, "generated": ROWS[0]["target"]}
    assert second == {"text": ROWS[1]["text"], "generated": ROWS[1]["target"]}
    assert "is not JSON" in third["error"]


def test_a_line_nested_without_end_is_answered_with_the_reason(trained, monkeypatch, capsys):
    deep = '{"text": "a", "more": ' + "[" * 500 + "]" * 500 + "}"
    assert ask(trained, monkeypatch, f'{deep}\n"{ROWS[0]["text"]}"\n', "--jsonl") == 2
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "nested deeper than 100" in first["error"]
    assert second["generated"] == ROWS[0]["target"]


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


@pytest.mark.every(0)
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


def test_a_line_longer_than_any_question_is_refused_and_the_session_goes_on(trained, monkeypatch, capsys):
    monkeypatch.setattr("lorakit.console.LONGEST_LINE", 10)
    lines = (
        "长" * 99 + '\n怎样睡好？\n"""' + "a\n" * 9 + '"""\n怎样睡好？\n"""' + "b" * 99 + '\nmore\n"""\n怎样睡好？\n'
    )
    assert ask(trained, monkeypatch, lines) == 0
    output = capsys.readouterr()
    assert output.out == "\n早睡早起。\n" * 3
    assert output.err.count("warning: standard input: a line has more than 0 million characters") == 1
    assert output.err.count("warning: a question has more characters than any model reads") == 2
    asked = f'{{"text": "{"b" * 99}"}}\n"怎样睡好？"\n'
    assert ask(trained, monkeypatch, asked, "--jsonl") == 2
    long, short = map(json.loads, capsys.readouterr().out.splitlines())
    assert "has more than" in long["error"]
    assert short["generated"] == "早睡早起。"


def test_tools_for_a_template_that_has_no_place_for_them_are_refused_at_once(trained, monkeypatch, tmp_path, capsys):
    (tmp_path / "tools.json").write_text('[{"name": "weather", "parameters": {}}]')
    assert ask(trained, monkeypatch, "怎样睡好？\n", "--tools", str(tmp_path / "tools.json")) == 2
    assert "the chat template has no place for tools" in capsys.readouterr().err
