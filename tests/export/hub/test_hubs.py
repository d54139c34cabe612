import inspect
import sys
from types import ModuleType

import pytest
from hub_stand_ins import CONFIRMED, FILES, ModelScope130, ModelScope140, RecordingApi, hub_server, sent
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects


def test_calls_fit_the_signatures_of_hugging_face(push, api):
    assert push(CONFIRMED) == 0
    assert [name for name, _, _ in api.calls] == ["create_repo", "repo_info", "upload_folder"]
    for name, arguments, named in api.calls:
        inspect.signature(getattr(HfApi, name)).bind(None, *arguments, **named)
    assert api.named("create_repo")[1]["private"] is True


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
    assert "[modelscope]" in capsys.readouterr().err


def test_a_name_with_brackets_is_a_name_and_no_pattern(push, api, adapter):
    (adapter / "base[1]*.gguf").write_bytes(b"x")
    assert push(CONFIRMED) == 0
    patterns = api.named("upload_folder")[1]["allow_patterns"]
    names = ["base[1]*.gguf", "base1.gguf", "base[1]-private.gguf"]
    assert list(filter_repo_objects(names, allow_patterns=patterns)) == names[:1]
