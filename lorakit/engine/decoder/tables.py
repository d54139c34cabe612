"""The structures of decoding.cpp, field by field."""

from __future__ import annotations

import ctypes


class Matrix(ctypes.Structure):
    """A linear layer with what adapters add to it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "bias", "a", "b", "wide_a", "wide_b")),
        *((name, ctypes.c_int64) for name in ("outputs", "inputs", "kind", "rank")),
    )


class Layer(ctypes.Structure):
    """A decoder layer with its keys and values."""

    _fields_ = (
        *((name, Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "inner_norm", "query_norm", "key_norm", "keys", "values")),
        ("window", ctypes.c_int64),
    )


class Model(ctypes.Structure):
    """All that stays the same from token to token."""

    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        ("embedding", Matrix),
        ("head", Matrix),
        *((name, ctypes.c_void_p) for name in ("norm", "cos", "sin")),
        *(
            (name, ctypes.c_int64)
            for name in (
                *("layer_count", "hidden", "heads", "key_heads", "head_size", "inner", "capacity", "cache_kind"),
            )
        ),
        *((name, ctypes.c_float) for name in ("epsilon", "scaling")),
    )


class Step(ctypes.Structure):
    """The tokens of one call."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("ids", "slots", "positions", "wanted", "logits", "best")),
        *((name, ctypes.c_int64) for name in ("tokens", "answers")),
    )
