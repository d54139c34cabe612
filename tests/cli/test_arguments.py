import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from rich.cells import cell_len

from lorakit import libraries
from lorakit.cli import main
from lorakit.cli.arguments import parse_arguments
from lorakit.errors import SettingsError
from lorakit.language import speak_language


def test_flags_travel_as_text_and_only_when_given():
    arguments = parse_arguments(["--task", "train", "--lora_r", "4", "--set", "seed=1", "--set", "max_length=64"])
    assert arguments.task == "train"
    assert arguments.config_file == "config.yaml"
    assert arguments.flags == {"lora_r": "4"}
    assert arguments.assignments == ["seed=1", "max_length=64"]


def test_a_switch_needs_no_value_but_takes_one():
    assert parse_arguments(["--task", "inference", "--use_original_model"]).flags == {"use_original_model": "true"}
    arguments = parse_arguments(["--use_original_model", "false", "--task", "inference"])
    assert arguments.flags == {"use_original_model": "false"}


def test_every_flag_that_is_promised_exists():
    promised = [
        "model_name_or_path",
        "output_dir",
        "num_train_epochs",
        "per_device_train_batch_size",
        "learning_rate",
        "lora_r",
        "lora_alpha",
        "lora_model_path",
        "max_new_tokens",
        "temperature",
        "top_p",
        "repetition_penalty",
    ]
    for name in promised:
        text = '["1"]' if name == "lora_model_path" else "1"
        assert parse_arguments(["--task", "train", f"--{name}", "1"]).flags == {name: text}


@pytest.mark.parametrize(
    ("argv", "fault", "hint"),
    [
        (["--task", "train", "--lora_rank", "4"], "--lora_rank is not a flag", "did you mean --lora_r?"),
        (["--task", "train", "--max_length", "4"], "--max_length is not a flag", "--set max_length=VALUE"),
        (["--task", "train", "--lora-r", "4"], "--lora-r is not a flag", "did you mean --lora_r?"),
        (["--task", "fly"], "invalid choice", "--help"),
        ([], "--task", "--help"),
        (["--task", "train", "--lora_r"], "expected one argument", "--help"),
        (["--task", "train", "stray"], "stray is not a flag", "--help"),
    ],
)
def test_a_wrong_command_line_is_named_with_its_remedy(argv, fault, hint):
    with pytest.raises(SettingsError) as caught:
        parse_arguments(argv)
    assert fault in caught.value.message
    assert hint in caught.value.hint


def test_faults_end_in_exit_code_2_on_standard_error_without_a_traceback(capsys):
    assert main(["--task", "train", "--set", "lora_rnak=3"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: --set lora_rnak: lora_rnak is not a setting\n")
    assert "did you mean lora_r?" in output.err
    assert "Traceback" not in output.err


def test_a_terminal_that_cannot_show_chinese_does_not_end_the_run():
    command = [sys.executable, "main.py", "--task", "train", "--set", "验证集=3"]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": ""}
    outcome = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, check=False)
    assert outcome.returncode == 2
    assert b"is not a setting" in outcome.stderr
    assert b"Traceback" not in outcome.stderr


def heavy_modules_after(argv):
    code = (
        "import sys\nfrom lorakit.cli import main\n"
        f"try:\n    main({argv!r})\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'peft', 'pydantic', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return outcome.stderr.strip().splitlines()[-1]


def test_help_imports_nothing_heavy():
    assert heavy_modules_after(["--help"]) == "['pydantic']"


def test_wrong_settings_stop_before_anything_heavy_is_imported():
    argv = ["--task", "train", "--set", "trainer_args={warmup_step: 1}"]
    assert heavy_modules_after(argv) == "['pydantic']"


def test_garbage_is_collected_again_once_a_task_is_imported(monkeypatch):
    import gc

    from lorakit import cli

    monkeypatch.setitem(cli._TASK_MODULES, "train", "no.such.module")
    try:
        with pytest.raises(ModuleNotFoundError):
            cli._run_of("train")
        assert gc.isenabled()
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(("has_gpu", "is_left_out"), [(False, True), (True, False)])
def test_triton_is_left_out_where_there_is_no_gpu(monkeypatch, has_gpu, is_left_out):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_gpu)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    libraries.start_libraries()
    assert ("triton" in sys.modules) is is_left_out
    monkeypatch.delitem(sys.modules, "triton", raising=False)


@pytest.mark.parametrize("place", ["en_GB.UTF-8", "zh_CN.UTF-8"])
def test_help_fits_into_80_columns_and_shows_defaults(monkeypatch, capsys, place):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LC_ALL", place)
    monkeypatch.setattr("sys.argv", ["/opt/bin/lorakit"])
    monkeypatch.setattr("shutil.which", lambda name: "/opt/bin/lorakit")
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    speak_language("en")
    assert [line for line in lines if cell_len(line) > 80] == []
    assert [line for line in lines if line.strip()[:1] in tuple("，。、：；）")] == []
    said = " ".join(" ".join(lines).split())
    assert ("default: data/train.json" if place.startswith("en") else "默认：data/train.json") in said
    assert "http" not in said
