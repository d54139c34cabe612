import inspect
import json
import sys
from types import ModuleType

import pytest
from hub_stand_ins import ModelScope130, ModelScope140, RecordingApi, hub_server
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects

from lorakit import console
from lorakit.cli import main
from lorakit.export.push import size_text

FILES = {
    "adapter_model.safetensors": b"x" * 1500,
    "adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "/home/somebody/base"}',
    "lorakit.json": json.dumps({"base_model": "~/base", "system_prompt": "Our secret."}).encode(),
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"---\nlibrary_name: peft\n---\n# card\n",
}
OTHERS = {
    "optimizer.safetensors": b"",
    "random-0.safetensors": b"",
    "trainer_state.json": b"{}",
    "notes.txt": b"private",
    ".lock": b"",
    ".env.json": b"",
    "checkpoint-3/adapter_model.safetensors": b"",
    "checkpoint-3/README.md": b"",
}


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "lora_model"
    for name, content in (FILES | OTHERS).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def push(tmp_path, adapter):
    """Return a function that runs ``--task push`` for the adapter."""
    (tmp_path / "empty.yaml").write_text("")

    def run(*extra, to="alice/my-lora", folder=adapter):
        given = ["--task", "push", "--config", str(tmp_path / "empty.yaml"), "--lora_model_path", str(folder)]
        return main([*given, *(["--push_to", to] if to else []), *extra])

    return run


@pytest.fixture
def api(monkeypatch):
    api = RecordingApi()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    return api


@pytest.fixture
def answer(monkeypatch):
    """Return a function that puts a person at the terminal who gives one answer."""

    def sit_down(text):
        asked = []
        monkeypatch.setattr(console, "is_interactive", lambda: True)
        monkeypatch.setattr(console, "prompt", lambda label: asked.append(label) or text)
        return asked

    return sit_down


CONFIRMED = "--set=push_confirmed=true"


def sent(patterns):
    """Which files a hub takes by these patterns, as its own package chooses them."""
    return set(filter_repo_objects([*FILES, *OTHERS], allow_patterns=patterns))


def test_what_is_sent_is_what_was_shown_and_nothing_else(push, api, adapter, capsys):
    assert push(CONFIRMED) == 0
    output = capsys.readouterr()
    shown = output.out + output.err
    for name, content in FILES.items():
        assert name in output.out
        assert size_text(len(content)) in output.out
    assert f"6 files, {size_text(sum(map(len, FILES.values())))}" in output.out
    for place in (str(adapter), "alice/my-lora on Hugging Face", "private"):
        assert place in shown
    [left] = [line for line in output.err.splitlines() if line.startswith("not sent: ")]
    assert set(left.removeprefix("not sent: ").split(", ")) == {name.split("/")[0] for name in OTHERS} - {
        "checkpoint-3"
    } | {"checkpoint-3/"}
    _, named = api.named("upload_folder")
    assert sent(named["allow_patterns"]) == set(FILES)
    assert named["folder_path"] == str(adapter)
    assert "sent: https://hub.example/alice/my-lora" in output.err


def test_calls_fit_the_signatures_of_hugging_face(push, api):
    assert push(CONFIRMED) == 0
    assert [name for name, _, _ in api.calls] == ["create_repo", "repo_info", "upload_folder"]
    for name, arguments, named in api.calls:
        inspect.signature(getattr(HfApi, name)).bind(None, *arguments, **named)
    assert api.named("create_repo")[1]["private"] is True


def test_a_public_repository_is_asked_for_and_called_that(push, api, capsys):
    assert push(CONFIRMED, "--set=push_private=false") == 0
    assert "PUBLIC: everybody can read it" in capsys.readouterr().err
    assert api.named("create_repo")[1]["private"] is False


def test_a_repository_that_is_public_already_gets_nothing_private(push, capsys, monkeypatch):
    api = RecordingApi(is_private=False)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    assert push(CONFIRMED) == 2
    assert "is there already and public, so nothing was sent" in capsys.readouterr().err
    assert "upload_folder" not in {name for name, _, _ in api.calls}


@pytest.mark.parametrize("text", ["y", "Y ", "yes"])
def test_a_person_who_agrees_is_asked_once(push, api, answer, text):
    asked = answer(text)
    assert push() == 0
    assert asked == ["send? [y/N] "]
    assert api.named("upload_folder")


@pytest.mark.parametrize("text", ["", "n", "no", "maybe", "yesterday"])
def test_any_other_answer_sends_nothing(push, api, answer, text, capsys):
    answer(text)
    assert push() == 0
    assert api.calls == []
    assert "nothing was sent" in capsys.readouterr().err


def test_the_end_of_the_input_sends_nothing(push, api, monkeypatch):
    def ended(_):
        raise EOFError

    monkeypatch.setattr(console, "is_interactive", lambda: True)
    monkeypatch.setattr(console, "prompt", ended)
    assert push() == 0
    assert api.calls == []


def test_without_a_terminal_nothing_is_sent_unless_confirmed(push, api, capsys):
    assert push() == 2
    output = capsys.readouterr()
    assert "adapter_model.safetensors" in output.out, "it is shown all the same"
    assert "nothing was sent" in output.err
    assert "push_confirmed=true" in output.err
    assert api.calls == []


def test_what_may_be_private_is_said_before(push, api, capsys):
    push()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "warning: adapter_config.json names a path of this machine: /home/somebody/base" in warnings
    assert "warning: lorakit.json names a path of this machine: ~/base" in warnings
    assert any("system prompt" in line and "Our secret." in line for line in warnings)


def test_a_folder_without_a_card_is_remarked_on(push, api, adapter, capsys):
    (adapter / "README.md").unlink()
    assert push(CONFIRMED) == 0
    assert "there is no model card (README.md)" in capsys.readouterr().err


def test_what_was_exported_is_sent_where_it_is_named(push, api, tmp_path, capsys):
    folder = tmp_path / "gguf"
    folder.mkdir()
    for name, content in {
        "model-f16.gguf": "x",
        "Modelfile": "FROM ./model-f16.gguf",
        "proof.json": '{"proven": true}',
    }.items():
        (folder / name).write_text(content)
    assert push(CONFIRMED, "--export_dir", str(folder)) == 0
    _, named = api.named("upload_folder")
    assert named["folder_path"] == str(folder)
    assert set(
        filter_repo_objects(
            [*FILES, "model-f16.gguf", "Modelfile", "proof.json"], allow_patterns=named["allow_patterns"]
        )
    ) == {
        "model-f16.gguf",
        "Modelfile",
        "proof.json",
    }
    assert "lorakit has neither merged" not in capsys.readouterr().err


def test_a_model_that_lorakit_has_not_made_is_remarked_on(push, api, tmp_path, capsys):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    assert push(CONFIRMED, "--export_dir", str(folder)) == 0
    assert "lorakit has neither merged nor exported this model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (LocalTokenNotFoundError("Token is required"), "Token is required"),
        (ConnectionError("cannot reach hf_abcdefghijk"), "cannot reach ***"),
        (ValueError(""), "ValueError"),
        (OSError("with s3cret-of-the-environment in it"), "with *** in it"),
    ],
)
def test_a_refusal_is_one_error_with_its_remedy_and_no_token(push, monkeypatch, capsys, fault, said):
    monkeypatch.setenv("HF_TOKEN", "s3cret-of-the-environment")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: RecordingApi(fault=fault))
    assert push(CONFIRMED) == 2
    told = capsys.readouterr().err
    [error] = [line for line in told.splitlines() if line.startswith("error: ")]
    assert error == f"error: push_to: Hugging Face has not taken 'alice/my-lora' ({said})"
    for word in ("hf auth login", "HF_TOKEN", "the right to write", "'alice'", "network"):
        assert word in told
    assert "s3cret" not in told
    assert "hf_abc" not in told


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def at(monkeypatch, address):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint=address))


def test_the_real_package_sends_these_files_to_a_hub(push, no_account, monkeypatch, capsys):
    with hub_server() as hub:
        at(monkeypatch, hub.address)
        assert push(CONFIRMED) == 0, capsys.readouterr().err
    assert hub.received == FILES
    assert hub.created["name"] == "my-lora"
    assert hub.created["organization"] == "alice"
    assert hub.created["visibility"] == "private"
    assert "0123456789abcdef" not in "".join(capsys.readouterr())


def test_the_real_package_is_not_asked_to_send_to_a_public_place(push, no_account, monkeypatch, capsys):
    with hub_server(is_private=False) as hub:
        at(monkeypatch, hub.address)
        assert push(CONFIRMED) == 2
    assert hub.received == {}
    assert not any("preupload" in path for path in hub.asked)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_a_hub_says_is_handed_on(push, no_account, monkeypatch, capsys, status):
    with hub_server(status=status, message="You may not do this") as hub:
        at(monkeypatch, hub.address)
        assert push(CONFIRMED) == 2
    told = capsys.readouterr().err
    assert "has not taken 'alice/my-lora'" in told
    assert str(status) in told
    assert "internal error" not in told


def test_a_hub_that_is_not_there_is_an_error_too(push, no_account, monkeypatch, capsys):
    at(monkeypatch, "http://127.0.0.1:9")
    assert push(CONFIRMED) == 2
    assert "has not taken 'alice/my-lora'" in capsys.readouterr().err


def with_modelscope(monkeypatch, api):
    module = ModuleType("modelscope.hub.api")
    module.HubApi = lambda: api
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "modelscope.hub.api", module)


@pytest.mark.parametrize("version", [ModelScope130, ModelScope140])
@pytest.mark.parametrize("is_private", [True, False])
def test_calls_fit_the_signatures_of_modelscope(push, monkeypatch, version, is_private, capsys):
    api = RecordingApi()
    with_modelscope(monkeypatch, api)
    assert push(CONFIRMED, "--set=model_hub=modelscope", f"--set=push_private={str(is_private).lower()}") == 0
    assert [name for name, _, _ in api.calls] == ["create_repo", "upload_folder"]
    for name, arguments, named in api.calls:
        inspect.signature(getattr(version, name)).bind(None, *arguments, **named)
    assert api.named("create_repo")[1]["visibility"] == ("private" if is_private else "public")
    assert sent(api.named("upload_folder")[1]["allow_patterns"]) == set(FILES)
    told = capsys.readouterr().err
    assert "alice/my-lora on ModelScope" in told
    assert "Apache-2.0" in told
    assert "sent: https://hub.example/models/alice/my-lora" in told


def test_modelscope_has_a_remedy_of_its_own(push, monkeypatch, capsys):
    with_modelscope(monkeypatch, RecordingApi(fault=ValueError("No credentials found.")))
    assert push(CONFIRMED, "--set=model_hub=modelscope") == 2
    told = capsys.readouterr().err
    assert "ModelScope has not taken 'alice/my-lora' (No credentials found.)" in told
    assert "MODELSCOPE_API_TOKEN" in told


def test_a_missing_package_is_named(push, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setitem(sys.modules, "modelscope.hub.api", None)
    assert push(CONFIRMED, "--set=model_hub=modelscope") == 2
    assert "pip install -e .[modelscope]" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_340_000_000, "2.3 GB")])
def test_sizes_are_written_as_a_person_would(size):
    assert size_text(size[0]) == size[1]
