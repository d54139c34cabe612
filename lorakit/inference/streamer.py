"""From the tokens of an answer that is being written to the text that is shown of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from lorakit.inference.assistant import Assistant
from lorakit.inference.text.streaming import AnswerStream, IncrementalDecoder
from lorakit.inference.text.thoughts import ThoughtReader


class TokenStreamer(BaseStreamer, StoppingCriteria):  # type: ignore[misc]
    """Receives tokens from ``generate``, shows their text, and stops an answer that is stuck in a loop."""

    def __init__(self, assistant: Assistant, is_cleaned: bool, has_tools: bool, show: Callable[[str], None]) -> None:
        self._decoder = IncrementalDecoder(assistant.bundle.tokenizer, keeps_control=True)
        self._stream = AnswerStream(is_cleaned)
        hidden = frozenset() if has_tools else assistant.chat_format.hidden_ids
        self._hidden_ids = hidden
        self._thoughts = ThoughtReader(assistant.thought_marks)
        self._stop_ids = frozenset(assistant.stop_ids)
        self._show = show
        self._has_seen_prompt = False

    def put(self, value: Any) -> None:
        """Take the prompt (the first call), then one token a call."""
        if not self._has_seen_prompt:
            self._has_seen_prompt = True
            return
        for token in value.reshape(-1).tolist():
            self.see(token)

    def see(self, token: int) -> bool:
        """Take a token of the answer; return whether to stop, as it is stuck in a loop."""
        if token not in self._stop_ids:
            for piece in self._thoughts.add(token):
                self._take(piece)
        return self._stream.is_hopeless

    def _take(self, piece: int | str) -> None:
        if isinstance(piece, str):
            self._show(self._stream.add(piece))
        elif piece not in self._hidden_ids:
            self._show(self._stream.add(self._decoder.add(piece)))

    def end(self) -> None:
        """Called by ``generate``; the rest is shown by `close`."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Tell ``generate`` whether to stop: [prompts]."""
        return torch.full((len(input_ids),), self._stream.is_hopeless, device=input_ids.device)

    def close(self) -> None:
        """Show what was held back."""
        for piece in self._thoughts.finish():
            self._take(piece)
        self._show(self._stream.add(self._decoder.finish()))
        self._show(self._stream.finish())
