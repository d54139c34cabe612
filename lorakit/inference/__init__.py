"""Asking a model: one question at a time in the terminal, or many in batches."""

from lorakit.inference.assistant import Assistant, adapter_folder, assistant_for, open_assistant, stop_ids
from lorakit.inference.session import run

__all__ = ["Assistant", "adapter_folder", "assistant_for", "open_assistant", "run", "stop_ids"]
