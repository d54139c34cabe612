import pytest
from hub_stand_ins import FILES, OTHERS, RecordingApi

from lorakit.cli import main


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
