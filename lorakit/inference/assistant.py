"""A base model, with or without an adapter, that answers questions exactly as it was trained to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lorakit.config import Config
from lorakit.data_processing import ChatFormat, Message
from lorakit.inference.text.thoughts import ThoughtMarks
from lorakit.inference.text.tool_calls import read_tools_file
from lorakit.inference.weights.decode_choice import DecodeChoice, Decoders
from lorakit.model_config import AdapterRecord, ModelBundle

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Assistant:
    """What answers.

    Attributes:
        bundle: The model, its adapter attached where there is one.
        chat_format: How its conversations are written.
        has_adapter: Whether `without_adapter` makes a difference.
        system_prompt: Given to conversations that carry none.
        thinking: Whether a reasoning model thinks first.
        decoding: What computes the answers.
        tools: That it may call where a conversation has none of its own, as a JSON list.
    """

    bundle: ModelBundle
    chat_format: ChatFormat
    has_adapter: bool
    system_prompt: str | None
    thinking: bool
    decoding: DecodeChoice
    tools: str | None = None

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Encode a conversation that ends with a question, as training encoded it."""
        offered = [message for message in messages if message.role == "tools"]
        turns = messages[len(offered) :]
        if self.tools and not offered:
            offered = [Message("tools", self.tools)]
        if self.system_prompt and turns[0].role != "system":
            turns = [Message("system", self.system_prompt), *turns]
        return self.chat_format.prompt_ids([*offered, *turns], self.thinking)

    def asked_ids(self, messages: Sequence[Message], answer: str, max_length: int) -> list[int]:
        """Encode a question of a row as `prompt_ids` does, cut at its beginning as the row is cut to be trained.

        Args:
            messages: End with the question.
            answer: That the row has.
            max_length: Of question and answer, in tokens.
        """
        ids = self.prompt_ids(messages)
        limit = getattr(self.bundle.model.config.get_text_config(), "max_position_embeddings", None)
        if any(message.images for message in messages) or (limit and len(ids) >= limit):
            return ids  # pictures are never cut, and what the model has no room for is not made to fit
        tokenizer = self.bundle.tokenizer
        room = max(max_length - len(tokenizer.encode(answer, add_special_tokens=False)) - 1, 1)  # 1: the end of turn
        kept = 1 if ids[0] == tokenizer.bos_token_id and ids.count(ids[0]) == 1 else 0
        return ids if len(ids) <= room else ids[:kept] + ids[len(ids) - max(room - kept, 1) :]

    def tools_of(self, messages: Sequence[Message]) -> str | None:
        """Return the tools that may be called in a conversation, as a JSON list; None where there are none."""
        return next((message.content for message in messages if message.role == "tools"), self.tools)

    @cached_property
    def thought_marks(self) -> ThoughtMarks | None:
        """What the model writes around a thought, where these are control tokens."""
        return ThoughtMarks.of(self.chat_format)

    def without_adapter(self) -> AbstractContextManager[None]:
        """Answer as the base model inside this context."""
        return self.bundle.model.disable_adapter() if self.has_adapter else nullcontext()  # type: ignore[no-any-return]

    @property
    def stop_ids(self) -> list[int]:
        """The tokens at which an answer ends."""
        return stop_ids(self.bundle.model, self.chat_format)


def stop_ids(model: Any, chat_format: ChatFormat) -> list[int]:
    """Return the tokens at which an answer ends: the trained end of turn, and the model's own."""
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own] if own is not None else []
    return list(dict.fromkeys([chat_format.end_of_turn_id, *listed]))


def assistant_for(
    bundle: ModelBundle,
    chat_format: ChatFormat,
    config: Config,
    record: AdapterRecord | None,
    decoding: DecodeChoice | None = None,
) -> Assistant:
    """Make an assistant that asks as its adapter was trained to be asked.

    Args:
        bundle: The model, with or without an adapter.
        chat_format: Of its tokenizer.
        config: What it sets of system prompt and thinking wins over the record.
        record: Of the adapter; None where there is none, or it has none.
        decoding: What computes the answers; None for weights as the model holds them.
    """
    from lorakit.engine import base_model

    system_prompt, thinking = config.system_prompt, config.thinking is True
    if record is not None:
        if system_prompt is None:
            system_prompt = record.system_prompt
        if config.thinking == "auto":
            thinking = record.thinking
        chat_format = as_trained(chat_format, config, record)
    decoding = decoding or Decoders(bundle, config).chosen("same", ())
    tools = read_tools_file(config.tools) if config.tools else None
    if tools is not None:  # a template without a place for them should not wait for a question
        chat_format.prompt_ids([Message("tools", tools), Message("user", "?")])
    is_adapted = base_model(bundle.model) is not bundle.model
    return Assistant(bundle, chat_format, is_adapted, system_prompt, thinking, decoding, tools)


def as_trained(chat_format: ChatFormat, config: Config, record: AdapterRecord) -> ChatFormat:
    """Return the chat format with the date and the allowed tokens that an adapter was trained with."""
    if config.template_date == "auto" and record.template_date is not None:
        chat_format = chat_format.dated(record.template_date)
    return chat_format if config.allow_tokens else chat_format.allowing(record.allowed_tokens)


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay prompts out for batched generation, their ends aligned.

    Returns:
        Token ids and attention mask, both [prompts, longest prompt].
    """
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)
