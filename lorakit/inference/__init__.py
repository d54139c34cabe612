"""Asking a model: one question at a time in the terminal, or many in batches."""

from lorakit.inference.assistant import ADAPTER_FOLDER, Assistant, adapter_folder, assistant_for, open_assistant
from lorakit.inference.session import run

__all__ = ["ADAPTER_FOLDER", "Assistant", "adapter_folder", "assistant_for", "open_assistant", "run"]
