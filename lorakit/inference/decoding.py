"""Answers by the engine's decoder: each token one call, each answer gone from the batch when it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from lorakit.config import Config
from lorakit.engine import Decoder, begin
from lorakit.errors import RunError


@dataclass(frozen=True)
class Writing:
    """How answers are written.

    Attributes:
        most_tokens: Of an answer.
        stop_ids: Tokens that end it.
        config: The settings of sampling.
        at_once: How many answers are written at a time.
    """

    most_tokens: int
    stop_ids: Sequence[int]
    config: Config
    at_once: int


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
    answers: list[list[int]] = [[] for _ in prompts]
    choose = _Choosing(writing.config)
    waiting = deque(range(len(prompts)))
    slots = min(writing.at_once, len(prompts))
    free, running = list(range(slots)), dict[int, int]()  # of each slot its prompt
    with torch.inference_mode():
        decoder.open(slots, max(map(len, prompts)) + writing.most_tokens)
        while waiting or running:
            if waiting and free:
                started = {free.pop(0): waiting.popleft() for _ in range(min(len(free), len(waiting)))}
                logits = begin(decoder, [(slot, prompts[which]) for slot, which in started.items()])
                tokens = [
                    choose.from_logits(row, [*prompts[which]])
                    for row, which in zip(logits, started.values(), strict=True)
                ]
                running |= started
                asked = started
            else:
                asked = running
                tokens = _next_tokens(decoder, choose, prompts, answers, running)
            for (slot, which), token in zip(list(asked.items()), tokens, strict=True):
                if token < 0:
                    raise RunError(
                        "the model computes no numbers (NaN) for this question",
                        "choose another number format (torch_dtype: float32), or fetch the model again",
                    )
                answers[which].append(token)
                is_whole = len(answers[which]) >= writing.most_tokens
                if see(token) or token in writing.stop_ids or is_whole:
                    del running[slot]
                    free.append(slot)
    return answers


def _next_tokens(
    decoder: Decoder,
    choose: _Choosing,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    running: dict[int, int],
) -> list[int]:
    last = [answers[which][-1] for which in running.values()]
    positions = [len(prompts[which]) + len(answers[which]) - 1 for which in running.values()]
    best, logits = decoder.step(last, list(running), positions, wants_logits=not choose.is_plain)
    for slot, token in zip(running, last, strict=True):
        decoder.known[slot].append(token)
    if logits is None:
        return best
    return [
        choose.from_logits(row, [*prompts[which], *answers[which]])
        for row, which in zip(logits, running.values(), strict=True)
    ]


class _Choosing:
    """Chooses a token as transformers' ``generate`` does with these settings."""

    def __init__(self, config: Config) -> None:
        self._is_greedy = config.temperature == 0
        self._change = LogitsProcessorList()
        if config.repetition_penalty != 1:
            self._change.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        if not self._is_greedy and config.temperature != 1:
            self._change.append(TemperatureLogitsWarper(config.temperature))
        if not self._is_greedy and config.top_p < 1:
            self._change.append(TopPLogitsWarper(config.top_p))

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is taken, whatever came before."""
        return self._is_greedy and not self._change

    def from_logits(self, logits: torch.Tensor, before: Sequence[int]) -> int:
        """Return the next token, or -1 where the logits [vocabulary] are no numbers.

        Args:
            logits: In float32.
            before: Prompt and answer so far.
        """
        scores = self._change(torch.tensor([before]), logits[None].clone())  # [1, vocabulary]
        if scores.isnan().any():
            return -1
        if self._is_greedy:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1), num_samples=1))
