import builtins

import pytest

from lorakit.errors import RunError
from lorakit.libraries import leave_out_triton


def test_variables_with_which_pytorch_does_not_start_are_told_of(monkeypatch):
    own = builtins.__import__

    def failing(name, *arguments, **named):
        if name == "torch":
            raise ValueError("Invalid log settings: banana")
        return own(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(RunError, match=r"PyTorch does not start \(Invalid log settings: banana\)") as caught:
        leave_out_triton()
    monkeypatch.undo()
    assert "TORCH" in caught.value.hint
