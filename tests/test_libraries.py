import importlib

import pytest

from lorakit import libraries
from lorakit.errors import RunError
from lorakit.libraries import start_libraries


@pytest.mark.parametrize(
    ("module", "variable"),
    [("torch", "TORCH_LOGS"), ("huggingface_hub.constants", "HF_HUB_ETAG_TIMEOUT"), ("transformers", "USE_TORCH")],
)
def test_variables_with_which_a_library_does_not_start_are_told_of(monkeypatch, module, variable):
    def failing(name):
        if name == module:
            raise ValueError("Invalid log settings: banana")
        return importlib.import_module(name)

    monkeypatch.setenv(variable, "banana")
    monkeypatch.setattr(libraries, "importlib", type("Stand-in", (), {"import_module": staticmethod(failing)}))
    with pytest.raises(RunError, match=r"does not start \(Invalid log settings: banana\)") as caught:
        start_libraries()
    assert variable in caught.value.hint
