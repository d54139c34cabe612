"""What tells one chat template from another: its source, the special tokens, and what it makes of examples."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION, _ANSWER = {"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"}
_SYSTEM = {"role": "system", "content": "S"}
_CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [_QUESTION],
    [_SYSTEM, _QUESTION],
    [_QUESTION, _ANSWER, {"role": "user", "content": "Q2"}],
    [_SYSTEM, *[_QUESTION, _ANSWER] * 4, {"role": "user", "content": "Q5"}],
)


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of a tokenizer's chat template and special tokens."""
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    identity = json.dumps([str(tokenizer.chat_template), tokens], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def template_examples(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> tuple[str, ...]:
    """Return conversations as the template writes them: with and without a system message, short and long, thinking.

    What it refuses is written as nothing.

    Args:
        tokenizer: Whose special tokens it writes.
        template: Its text; None for the tokenizer's own.
    """
    return tuple(
        _written(tokenizer, conversation, enable_thinking=thinking, chat_template=template)
        for conversation in _CONVERSATIONS
        for thinking in (False, True)
    )


def _written(tokenizer: Any, conversation: list[dict[str, str]], **options: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True, **options))
    except Exception:  # whatever a template raises for what it does not take
        return ""
