"""No secret leaves, and nothing that a terminal would obey."""

import io
import json
import sys
import time

import pytest

from lorakit import console
from lorakit.outgoing import (
    for_a_screen,
    holds_secret,
    is_secret_name,
    json_without_secrets,
    open_new,
    printable,
    strict_json,
    without_secrets,
)
from lorakit.report.surroundings import without_secrets as report_without_secrets

MOST_SECONDS = 10  # of a processor, for any input; a bound, not a measurement
SECRETS = [
    "hf_" + "aB3dEfGh" * 4,
    "hf_abcdefghijklmnop",
    "api_org_" + "AbCdEfGh" * 4,
    "sk-" + "aB3dEfGhIjKlMnOp" * 3,
    "sk-0123456789abcdef0123456789abcdef",
    "sk-proj-abc_DEF-123456789012345678901234567890",
    "sk-ant-api03-" + "x-Y_z9" * 12,
    "ms-1a2b3c4d-5e6f-7a8b-9c0d-1e2f3a4b5c6d",
    "ghp_" + "a1B2" * 9,
    "github_pat_11ABCDEFG0" + "x" * 30,
    "glpat-" + "a1B2" * 5,
    "xoxb-1234567890-abcdef",
    "AKIAIOSFODNN7EXAMPLE",
    "AIza" + "Sy0" * 12,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
]
HARMLESS = [
    "hf_hub_download and hf_transfer of huggingface_hub",
    "sk-learn is scikit-learn",
    "task-force-2024, risk-assessment-procedure-of-2024",
    "max_new_tokens=512, pad_token: <pad>, trained token: x",
    "output/lora_model/adapter_model.safetensors",
    "https://example.org/a/b@c",
    "周一到周五早上九点。",
]
AROUND = ["{}", "refused {}.", '{{"hub_token": "{}"}}', "--set=x={}", "密钥是{}吗", "https://host/{}/x", "a\n{}\nb"]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("secret", SECRETS)
def test_what_has_the_shape_of_a_secret_is_hidden(secret, around):
    text = around.format(secret)
    assert holds_secret(text)
    assert secret not in without_secrets(text)
    assert secret[8:] not in without_secrets(text)


BEGINNINGS = ("sk-", "-sk-_", "eyJ-", "eyJaaaaaaaaaaaa.", "api_key:'", "hub_token: ", "://a:", "a_", "hf_", "\u202e")


@pytest.mark.slow
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_million_beginnings_of_secrets_take_no_more_than_ten_seconds(beginning):
    text = beginning * (1_000_000 // len(beginning))
    started = time.process_time()
    for_a_screen(text)
    holds_secret(text)
    report_without_secrets(text)
    assert time.process_time() - started < MOST_SECONDS


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text):
    assert without_secrets(text) == text
    assert not holds_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "hub_token: hunter2hunter2",
        "HF_TOKEN=hunter2hunter2",
        '{"api_key": "hunter2hunter2"}',
        "password = 'hunter2hunter2'",
        "https://me:hunter2hunter2@host/x",
    ],
)
def test_what_stands_under_the_name_of_a_secret_is_hidden(text):
    assert "hunter2" not in without_secrets(text)


def test_the_value_of_a_secret_variable_is_hidden_wherever_it_turns_up(monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "correct horse battery staple")
    assert without_secrets("it said: correct horse battery staple!") == "it said: ...!"


@pytest.mark.parametrize("name", ["hub_token", "token", "api_key", "OPENAI_API_KEY", "password", "aws_secret_key"])
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["max_new_tokens", "include_num_input_tokens_seen", "eos_token", "tokenizer", "key"])
def test_names_that_only_sound_like_secrets(name):
    assert not is_secret_name(name)


CONTROL = {
    "a title": "\x1b]0;owned\x07",
    "the clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "a link": "\x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\",
    "a cleared screen": "\x1b[2J\x1b[H",
    "one character for an escape sequence": "\x9b31m",
    "an operating system command in one": "\x9d0;owned\x9c",
    "a line that is written over": "safe\rEVIL",
    "backspaces": "safe\b\b\b\bEVIL",
    "a bell": "\x07",
    "a shift to another character set": "\x0e",
    "delete": "\x7f",
    "another direction of writing": "\u202egnp.exe",
    "an isolated direction": "\u2066x\u2069",
    "NUL": "a\0b",
}


@pytest.mark.parametrize("kind", CONTROL)
def test_nothing_that_a_terminal_would_obey_is_printed(kind, capsys):
    evil = CONTROL[kind]
    for cached in (console._out, console._err):
        cached.cache_clear()
    console.result(evil)
    console.note(evil)
    console.warn(f"{evil} [bold]")
    console.facts(evil, [(evil, evil)])
    console.table(evil, [evil, "b"], [[evil, "[red]x[/red]"]])
    console.marked([console.MarkedText(evil, True), console.MarkedText(evil, False)])
    console.stream(evil)
    console.label(evil)
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not [sign for sign in text if (ord(sign) < 32 and sign not in "\n\t") or 0x7F <= ord(sign) < 0xA0]
        assert not set(text) & set("\u202e\u202d\u2066\u2069")
    assert "[red]x[/red]" in said.out
    assert "[bold]" in said.err


def test_tabs_line_ends_and_other_scripts_stay():
    text = "a\tb\nc\r\nשלום \u200f 你好 👩\u200d💻"
    assert printable(text) == text.replace("\r\n", "\n")


def test_a_prompt_is_cleaned_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("x\n"))
    console.prompt("\x1b]0;t\x07> ")
    assert "\x1b" not in capsys.readouterr().err


def test_both_are_done_at_once():
    assert for_a_screen(f"\x1b[1m{SECRETS[0]}") == "\u241b[1mhf_..."
    assert json.loads(without_secrets(json.dumps({"hub_token": SECRETS[0], "x": 1}))) == {"hub_token": "hf_...", "x": 1}


def test_a_new_file_takes_the_place_of_a_link_and_of_a_file(tmp_path):
    (tmp_path / "precious").write_text("whole")
    for lay in (lambda file: file.symlink_to(tmp_path / "precious"), lambda file: file.write_text("x" * 99)):
        lay(tmp_path / "log")
        with open_new(tmp_path / "log", is_private=True) as file:
            file.write("new\ud800\n")
        assert (tmp_path / "precious").read_text() == "whole"
        assert (tmp_path / "log").read_bytes() == b"new\\ud800\n"
        assert (tmp_path / "log").stat().st_mode & 0o077 == 0
        (tmp_path / "log").unlink()


@pytest.mark.parametrize(
    "content",
    [
        {"text": 'api_key=abcdefgh"quoted"'},
        {"text": 'password: abcde"x'},
        {"text": [f"\n{SECRETS[0]}", f"\t{SECRETS[0]}"]},
        {"trainer_args.hub_token": "correct-horse-battery"},
        {"a": {"password": "hunter2hunter2"}, "b": ("\u2028", 'api_key="x"')},
    ],
)
def test_json_without_secrets_is_json_and_has_none(content):
    text = json_without_secrets(content)
    assert json.loads(text).keys() == content.keys()
    assert not any(word in text for word in ("abcdefgh", SECRETS[0][8:], "horse", "hunter2"))


@pytest.mark.parametrize("secret", SECRETS)
def test_json_hides_a_secret_after_a_line_break_which_is_written_as_a_letter(secret):
    assert secret[8:] not in json_without_secrets({"text": f"a\n{secret}", "b": [f"\t{secret}"]})


def test_json_without_secrets_is_as_it_is_where_there_are_none():
    content = {"a": [1, 2.5, None, True, "早睡"], "token": "word", "b": {"api_key": 123456789012}}
    assert json_without_secrets(content, indent=2) == strict_json(content, indent=2)
