from pathlib import Path

from lorakit.cli.arguments import parse_arguments
from lorakit.report.surroundings import commands, processor_name, versions_and_machine, without_secrets


def test_the_commands_are_understood_and_name_the_run_s_own_files():
    lines = commands(Path("out put/run"))
    assert lines[0] == "python main.py --config 'out put/run/config_used.yaml' --task train"
    assert lines[1].endswith("--task evaluate --lora_model_path 'out put/run/lora_model'")
    import shlex

    tasks = [parse_arguments(shlex.split(line)[2:]).task for line in lines]
    assert tasks == ["train", "evaluate", "inference"]


def test_secrets_are_blanked_out_and_nothing_else():
    text = "max_new_tokens: 48\ntrainer_args:\n  hub_token: hf_abc\n  push_to_hub: true\n  api_key: x y\n"
    expected = "max_new_tokens: 48\ntrainer_args:\n  hub_token: ***\n  push_to_hub: true\n  api_key: ***\n"
    assert without_secrets(text) == expected
    assert without_secrets("trainer_args: {hub_token: hf_abc, seed: 1}") == "trainer_args: {hub_token: ***, seed: 1}"
    assert without_secrets("hub_token: null\n") == "hub_token: null\n"


def test_versions_and_machine_are_named():
    shown = versions_and_machine("train")
    for name in ("Python", "lorakit", "torch", "transformers", "peft", "processor", "cores", "memory", "GPU"):
        assert f"<td>{name}</td>" in shown
    assert processor_name()
