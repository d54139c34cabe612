import json

import pytest

from lorakit.export.hub.parcel import pack_up
from lorakit.export.hub.privacy import warnings_of


@pytest.fixture
def warnings(tmp_path):
    """Return a function from files to what is said of them."""

    def of(files):
        for name, content in ({"adapter_model.safetensors": ""} | files).items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return list(warnings_of(pack_up(tmp_path)))

    return of


@pytest.mark.parametrize(
    "path", ["/home/a/base", "~/base", "~a/base", r"C:\models\base", "D:/base", "../base", "./base"]
)
@pytest.mark.parametrize("file", ["adapter_config.json", "lorakit.json", "config.json", "tokenizer_config.json"])
def test_paths_in_settings_are_named(warnings, file, path):
    assert warnings({file: {"x": [{"y": path}]}}) == [f"{file} names a path of this machine: {path}"]


def test_paths_that_are_keys_are_named(warnings):
    assert warnings({"proof.json": {"proven": True, "adapters": {"/home/a/lora": 1.0}}}) == [
        "proof.json names a path of this machine: /home/a/lora"
    ]


@pytest.mark.parametrize(
    "text", ["base: /home/a/base", "(/home/a/b)", "`~/models/b`", "FROM C:\\models\\b", "a\n/home/a/b"]
)
@pytest.mark.parametrize("file", ["README.md", "Modelfile"])
def test_paths_in_texts_are_named(warnings, file, text):
    [said] = warnings({file: text})
    assert said.startswith(f"{file} names a path of this machine: ")
    assert said.rpartition(": ")[2].rstrip("`") in text


HARMLESS = {
    "adapter_config.json": {"base_model_name_or_path": "Qwen/Qwen3-0.6B", "target_modules": "a|b", "x": None, "y": 1},
    "lorakit.json": {"base_model": "starter", "rendering": "<|im_start|>user\n/think", "system_prompt": None},
    "tokenizer_config.json": {"eos_token": "</s>", "sep": "/", "chat_template": "{% if a/b %}"},
    "README.md": "http://localhost:8000/v1/chat `path/to/this/folder` and/or </think> 1/2 application/json",
    "Modelfile": "FROM ./base-f16.gguf\nADAPTER ./adapter.gguf",
}


def test_names_of_a_hub_and_addresses_are_no_paths(warnings):
    assert warnings(HARMLESS) == []


def test_a_card_of_a_run_is_harmless(warnings):
    from card_samples import loading

    from lorakit.report.card_usage import usage

    assert warnings({"README.md": "\n\n".join(usage(loading()))}) == []


def test_a_system_prompt_is_shown_with_the_files_that_may_hold_it(warnings):
    files = {"lorakit.json": {"system_prompt": "s" * 500}, "README.md": "x"}
    [said] = warnings(files)
    assert said.startswith("lorakit.json and README.md may hold the system prompt: 'sss")
    assert len(said) < 300


def test_damaged_settings_are_searched_as_text(warnings):
    assert warnings({"adapter_config.json": '{"base": "/home/a/base"'}) == [
        "adapter_config.json names a path of this machine: /home/a/base"
    ]


def test_a_gguf_file_is_remarked_on(warnings):
    [said] = warnings({"base.gguf": "x"})
    assert "*.gguf" in said
