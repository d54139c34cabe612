"""Questions answered by an adapter on its base, then read again by another model: the same words, and how surely?"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

from lorakit.config import Config
from lorakit.data_processing import Message
from lorakit.engine import base_model, grids
from lorakit.inference import Assistant
from lorakit.inference.generation import answer_ids
from lorakit.inference.sampling import SamplingParams

_MOST_AT_ONCE, _TOKENS_AT_ONCE = 32, 8192  # questions, and tokens of prompts and answers together
ANSWER_TOKENS = 24  # of each answer; more would be the same evidence again


@dataclass(frozen=True)
class Answered:
    """One question with the answer of the adapter on its base.

    Attributes:
        messages: The conversation up to the answer.
        prompt: Its token ids.
        answer: Token ids of the greedy answer, the token that ends it included.
        file: Holds the log-probabilities at each token of the answer, float32 [answer, vocabulary].
    """

    messages: tuple[Message, ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    file: Path


@dataclass(frozen=True)
class Agreement:
    """How far another model is from the answers.

    Attributes:
        tokens: Of all answers.
        mean_kl: Kullback-Leibler divergence of the other model's next-token distribution from that of the adapter on
            its base, in nats per token.
        largest_kl: At the token where it is largest.
        equal_tokens: Tokens at which the other model finds the same one likeliest.
        equal_answers: Answers that the other model would give word for word, always taking its likeliest token.
        questions: How many there were.
    """

    tokens: int
    mean_kl: float
    largest_kl: float
    equal_tokens: int
    equal_answers: int
    questions: int


def answered_by_reference(
    assistant: Assistant, conversations: Sequence[Sequence[Message]], config: Config, folder: Path
) -> list[Answered]:
    """Answer questions greedily and keep what the model thought of each token.

    Args:
        assistant: Adapter on base.
        conversations: Each ends with a question.
        config: For the length of answers.
        folder: Gets one file for each question.
    """
    length = min(config.max_new_tokens, ANSWER_TOKENS)
    greedy = SamplingParams(length)
    answered: list[Answered] = []
    longest = max(len(assistant.prompt_ids(messages)) for messages in conversations)
    at_once = max(1, min(_MOST_AT_ONCE, _TOKENS_AT_ONCE // (longest + length)))
    for start in range(0, len(conversations), at_once):
        batch = conversations[start : start + at_once]
        for messages, answer in zip(batch, answer_ids(assistant, batch, greedy), strict=True):
            prompt = tuple(assistant.prompt_ids(messages))
            one = Answered(tuple(messages), prompt, answer, folder / f"{len(answered)}.npy")
            numpy.save(one.file, _log_probabilities(assistant.bundle.model, assistant, one).numpy())
            answered.append(one)
    return answered


def read_again(model: Any, assistant: Assistant, answered: Sequence[Answered]) -> Agreement:
    """Let another model read the same questions and answers.

    Args:
        model: Of transformers, without lorakit's layers.
        assistant: The one that answered, for the pictures of its questions.
        answered: What it answered.
    """
    divergences, same = [], []
    for one in answered:
        found = _log_probabilities(model, assistant, one)
        reference = torch.from_numpy(numpy.load(one.file))
        width = min(reference.shape[1], found.shape[1])  # a format may leave out rows that stand for no token
        reference, found = reference[:, :width], found[:, :width]
        divergences.append((reference.exp() * (reference - found)).sum(-1).clamp(min=0))  # [answer]
        same.append(found.argmax(-1) == reference.argmax(-1))  # [answer]
    together = torch.cat(divergences)
    tokens, answers = int(torch.cat(same).sum()), sum(bool(one.all()) for one in same)
    return Agreement(len(together), float(together.mean()), float(together.max()), tokens, answers, len(answered))


def _log_probabilities(model: Any, assistant: Assistant, one: Answered) -> torch.Tensor:
    """Return log-probabilities at each token of the answer, [answer, vocabulary] in float32."""
    device = assistant.bundle.device
    ids = torch.tensor([[*one.prompt, *one.answer[:-1]]], device=device)  # [1, prompt + answer - 1]
    with torch.inference_mode():
        logits = model(
            input_ids=ids,
            **_taken(model, attention_mask=torch.ones_like(ids), logits_to_keep=len(one.answer), use_cache=False),
            **_pictures(model, assistant, one, ids),
        ).logits[0, -len(one.answer) :]
        return logits.float().log_softmax(-1).cpu()


def _taken(model: Any, **settings: Any) -> dict[str, Any]:
    """Return those settings that a model's code takes by name; not each family has all."""
    names = inspect.signature(base_model(model).forward).parameters
    return {name: value for name, value in settings.items() if name in names}


def _pictures(model: Any, assistant: Assistant, one: Answered, ids: torch.Tensor) -> dict[str, Any]:
    images = assistant.chat_format.images
    pictures = assistant.chat_format.pictures(one.messages)
    if images is None or not pictures:
        return {}
    return {
        "pixel_values": torch.cat([picture.read() for picture in pictures]).to(ids.device),  # [patches, values]
        "image_grid_thw": grids(pictures, ids.device),
        "mm_token_type_ids": (ids == images.token_id).int(),
    }
