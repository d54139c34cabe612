"""Asking a model: one question at a time in the terminal, or many in batches."""

from lorakit.inference.adapters import (
    Adapters,
    chosen_adapters,
    describe,
    open_adapters,
    open_assistant,
)
from lorakit.inference.assistant import Assistant, assistant_for, stop_ids
from lorakit.inference.contract import hold_to
from lorakit.inference.session import run
from lorakit.inference.text.tool_calls import Answer, CallReader, same_calls
from lorakit.inference.weights.decode_choice import Decoders

__all__ = [
    "Adapters",
    "Answer",
    "Assistant",
    "CallReader",
    "Decoders",
    "assistant_for",
    "chosen_adapters",
    "describe",
    "hold_to",
    "open_adapters",
    "open_assistant",
    "run",
    "same_calls",
    "stop_ids",
]
