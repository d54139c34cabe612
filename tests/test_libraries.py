import importlib

import pytest

from lorakit import libraries
from lorakit.errors import RunError
from lorakit.libraries import start_libraries


@pytest.mark.parametrize(
    ("module", "variable"),
    [
        ("torch", "TORCH_LOGS"),
        ("huggingface_hub.constants", "HF_HUB_ETAG_TIMEOUT"),
        ("transformers", "USE_TORCH"),
        ("accelerate", "ACCELERATE_LOG_LEVEL"),
    ],
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


ALLOCATORS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
WRONG = [("GOMP_CPU_AFFINITY", written) for written in ("x", "0-", "0 1 x", "-1", "0-3:")]
WRONG += [(name, written) for name in ALLOCATORS for written in ("x", ",", "a:b,", "a:b,x", "a:[1", ":")]
RIGHT = [("GOMP_CPU_AFFINITY", written) for written in ("", "0", "0-3", "0 3 1-2 4-15:2", "0,1,2")]
RIGHT += [
    (name, written)
    for name in ALLOCATORS
    for written in ("", "a:b", "max_split_size_mb:128,garbage_collection_threshold:0.8", "a:[256:1,512:2,>:4],b:c")
]


@pytest.mark.parametrize(("variable", "written"), WRONG)
def test_what_would_end_or_hang_the_loading_of_a_library_is_a_sentence(monkeypatch, variable, written):
    monkeypatch.setenv(variable, written)
    with pytest.raises(RunError, match="is not written as"):
        start_libraries()


@pytest.mark.parametrize(("variable", "written"), RIGHT)
def test_what_a_library_can_read_is_taken(monkeypatch, variable, written):
    monkeypatch.setenv(variable, written)
    start_libraries()
