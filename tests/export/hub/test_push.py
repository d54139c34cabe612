import pytest
from hub_stand_ins import CONFIRMED, FILES, OTHERS, RecordingApi, sent
from huggingface_hub.utils import filter_repo_objects

from lorakit import console
from lorakit.export.hub.push import size_text


@pytest.fixture
def answer(monkeypatch):
    """Return a function that puts a person at the terminal who gives one answer."""

    def sit_down(text):
        asked = []
        monkeypatch.setattr(console, "is_interactive", lambda: True)
        monkeypatch.setattr(console, "prompt", lambda label: asked.append(label) or text)
        return asked

    return sit_down


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


@pytest.mark.parametrize("size", [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_340_000_000, "2.3 GB")])
def test_sizes_are_written_as_a_person_would(size):
    assert size_text(size[0]) == size[1]
