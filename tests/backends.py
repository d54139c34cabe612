"""Backends for tests, and models that compute with them."""

import torch

from lorakit.engine import Backend, accelerate, attach_backend, choose_backend

CPU = torch.device("cpu")


def backend_of_kind(is_native: bool, dtype: torch.dtype = torch.float32) -> Backend:
    """lorakit's own C++, or PyTorch."""
    backend = choose_backend(is_native, CPU, dtype)
    assert backend.is_native is is_native, backend.reason
    return backend


def accelerated(model, is_native=False, dtype=torch.float32):
    """Let a backend compute for a model, and prepare its modules."""
    attach_backend(model, backend_of_kind(is_native, dtype))
    accelerate(model)
    return model
