"""A model and the backend that computes for it: chosen once, and the model's own."""

from __future__ import annotations

from typing import Any

from lorakit.engine.backends.base import Backend
from lorakit.engine.backends.torch.backend import TorchBackend

_NAME = "lorakit_backend"


def base_model(model: Any) -> Any:
    """Take a model out of a distributed wrapper and out of PEFT's."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def attach_backend(model: Any, backend: Backend) -> None:
    """Let a backend compute for a model from now on; before its modules are prepared."""
    vars(base_model(model))[_NAME] = backend


def backend_of(model: Any) -> Backend:
    """Return the backend that computes for a model; PyTorch where none was chosen."""
    base = base_model(model)
    found = vars(base).get(_NAME)
    if found is None:
        found = TorchBackend("none was chosen", base.device.type)
        attach_backend(base, found)
    return found  # type: ignore[no-any-return]
