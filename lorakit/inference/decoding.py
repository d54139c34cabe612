"""Answers by the engine's decoder: each token one call, each answer gone from the batch when it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from lorakit.engine import Decoder, begin
from lorakit.errors import RunError
from lorakit.inference.sampling import RowSampling, SamplingParams


@dataclass(frozen=True)
class Writing:
    """How answers are written.

    Attributes:
        most_tokens: Of each answer.
        stop_ids: Tokens that end one.
        params: How tokens are chosen; ``most_tokens`` stands above its ``max_new_tokens``.
        at_once: The most answers that are written at once.
        seeds: One for each prompt; None draws from this process's random numbers.
    """

    most_tokens: Sequence[int]
    stop_ids: Sequence[int]
    params: SamplingParams
    at_once: int
    seeds: Sequence[int] | None = None


def write_answers(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    writing: Writing,
    see: Callable[[int], bool] = lambda token: False,
) -> list[list[int]]:
    """Answer prompts; where one answer ends, the next prompt takes its place.

    Args:
        decoder: Of the model, with the adapters in use.
        prompts: In token ids.
        writing: How.
        see: Called with every token; True ends that answer.

    Returns:
        The answers in token ids, with the token that ends one, where it came to it.

    Raises:
        RunError: The model's numbers are no numbers.
        NotCoveredError: The adapters in use are not covered; nothing has been answered.
    """
    texts = [list(prompt) for prompt in prompts]  # prompts with their answers so far
    seeds: Sequence[int | None] = writing.seeds or [None] * len(prompts)
    choosing = [_Choosing(writing.params, seed) for seed in seeds]
    slots = min(writing.at_once, len(prompts))
    waiting, free = deque(range(len(prompts))), deque(range(slots))
    running: dict[int, int] = {}  # of each slot its text
    with torch.inference_mode():
        decoder.open(slots, max(len(text) + most for text, most in zip(prompts, writing.most_tokens, strict=True)))
        while waiting or running:
            if waiting and free:
                asked = {free.popleft(): waiting.popleft() for _ in range(min(len(free), len(waiting)))}
                logits = begin(decoder, [(slot, texts[which]) for slot, which in asked.items()])
                tokens = _chosen(logits, asked, choosing, texts)
                running |= asked
            else:
                asked = dict(running)
                tokens = _next_tokens(decoder, asked, choosing, texts)
            for (slot, which), token in zip(asked.items(), tokens, strict=True):
                texts[which].append(token)
                is_whole = len(texts[which]) == len(prompts[which]) + writing.most_tokens[which]
                if see(token) or token in writing.stop_ids or is_whole:
                    del running[slot]
                    free.append(slot)
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def _next_tokens(
    decoder: Decoder, asked: Mapping[int, int], choosing: Sequence[_Choosing], texts: Sequence[list[int]]
) -> list[int]:
    last = [texts[which][-1] for which in asked.values()]
    positions = [len(texts[which]) - 1 for which in asked.values()]
    is_plain = choosing[0].is_plain  # all of them have the same settings
    best, logits = decoder.step(last, list(asked), positions, wants_logits=not is_plain)
    for slot, token in zip(asked, last, strict=True):
        decoder.known[slot].append(token)
    if logits is not None:
        return _chosen(logits, asked, choosing, texts)
    if min(best) < 0:
        raise no_numbers()
    return best


def _chosen(
    logits: torch.Tensor, asked: Mapping[int, int], choosing: Sequence[_Choosing], texts: Sequence[list[int]]
) -> list[int]:
    if logits.isnan().any():
        raise no_numbers()
    return [
        choosing[which].from_logits(row[None], texts[which]) for row, which in zip(logits, asked.values(), strict=True)
    ]


def no_numbers() -> RunError:
    """Return the error of a model whose scores are none; the likeliest of them would be any token, silently."""
    return RunError(
        "the model computes no numbers (NaN) for this question",
        "choose another number format (torch_dtype: float32), or fetch the model again",
    )


class _Choosing:
    """Chooses the tokens of one answer, as transformers' ``generate`` does with these settings."""

    def __init__(self, params: SamplingParams, seed: int | None) -> None:
        self._is_sampled = params.is_sampled
        self._change = LogitsProcessorList()
        if params.repetition_penalty != 1:
            self._change.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
        if self._is_sampled and seed is not None:
            self._change.append(RowSampling([seed], params.temperature, params.top_p))
            self._is_sampled = False  # the noise does it
        elif self._is_sampled:
            self._change.append(TemperatureLogitsWarper(float(params.temperature)))
            self._change.append(TopPLogitsWarper(params.top_p))

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is taken, whatever came before."""
        return not (self._is_sampled or self._change)

    def from_logits(self, logits: torch.Tensor, before: list[int]) -> int:
        """Return the token after those before it, for logits [1, vocabulary] in float32."""
        scores = self._change(torch.tensor([before]), logits.clone())  # [1, vocabulary]
        if self._is_sampled:
            return int(torch.multinomial(scores.softmax(-1), num_samples=1))
        return int(scores.argmax())
