"""How long the answers at the end of a training will take, measured on a few of its own questions."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from lorakit.config import Config
from lorakit.data_processing import Example
from lorakit.inference import Assistant, assistant_for
from lorakit.inference.generation import answer_ids
from lorakit.inference.sampling import SamplingParams
from lorakit.train.setup.preparing import Prepared

_TIMED_TOKENS = 16
_MOST_SECONDS = 8  # for finding out how much the base talks
_LONGER_THAN_EXPECTED = 1.2  # answers of a tuned model, against those of the rows
_TUNED_ROUNDS_FOR_INT8 = 2  # with weights as they are held, and in 8 bits


@dataclass(frozen=True)
class _Asked:
    prompt: list[int]
    example: Example
    answer_tokens: int


@dataclass(frozen=True)
class _Pace:
    """Seconds for a token of a question, and for one more token of every answer of a batch."""

    prompt_token: float
    step: float


def answering_seconds(prepared: Prepared) -> float:
    """Estimate the seconds in which base and tuned model answer the rows of a run.

    The tuned model is taken to write answers as long as those of the rows, the base as long as it writes to rows of
    middling length now.

    Args:
        prepared: The run; its adapter is new, and changes nothing.
    """
    model, config = prepared.bundle.model, prepared.config
    was_training = model.training
    model.eval()
    assistant = assistant_for(prepared.bundle, prepared.chat_format, config, prepared.record)
    rows = sorted(
        (_asked(assistant, example, config) for example in prepared.answered), key=lambda row: len(row.prompt)
    )
    size = config.per_device_eval_batch_size
    start = max(len(rows) - size, 0) // 2
    middle = rows[start : start + size]
    pace = _pace(assistant, middle, config)
    base_tokens = _base_tokens(assistant, middle, config, pace)
    model.train(was_training)
    rounds = 1 + _TUNED_ROUNDS_FOR_INT8 * (config.decode_weights == "auto" and assistant.decoding.decoder is not None)
    seconds = 0.0
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
        expected = _LONGER_THAN_EXPECTED * max(row.answer_tokens for row in batch)
        seconds += (1 + rounds) * pace.prompt_token * sum(len(row.prompt) for row in batch)
        seconds += pace.step * (rounds * min(expected, config.max_new_tokens) + base_tokens)
    return seconds


def _asked(assistant: Assistant, example: Example, config: Config) -> _Asked:
    answer = example.messages[-1].content
    tokens = len(assistant.bundle.tokenizer.encode(answer, add_special_tokens=False)) + 1
    return _Asked(assistant.asked_ids(example.messages[:-1], answer, config.max_length), example, tokens)


def _pace(assistant: Assistant, rows: list[_Asked], config: Config) -> _Pace:
    few, _ = _timed(assistant, rows, config, 1)
    more, longest = _timed(assistant, rows, config, _TIMED_TOKENS)
    step = max(more - few, 0.0) / max(longest - 1, 1)
    return _Pace(max(few - step, 0.0) / sum(len(row.prompt) for row in rows), step)


def _base_tokens(assistant: Assistant, rows: list[_Asked], config: Config, pace: _Pace) -> float:
    """Return the tokens of the longest answer of the base in a batch; where that takes too long, the most there are."""
    affordable = int(_MOST_SECONDS / pace.step) if pace.step > 0 else config.max_new_tokens
    most = min(affordable, config.max_new_tokens)
    if most < _TIMED_TOKENS:
        return config.max_new_tokens
    with assistant.without_adapter():
        _, longest = _timed(assistant, rows, config, most)
    return longest if longest < most else config.max_new_tokens


def _timed(assistant: Assistant, rows: list[_Asked], config: Config, most: int) -> tuple[float, int]:
    """Answer rows with at most so many tokens; return the seconds, and the tokens of the longest answer."""
    params = SamplingParams.of(config)
    brief = replace(params, max_new_tokens=min(most, params.max_new_tokens))
    conversations = [row.example.messages[:-1] for row in rows]
    started = time.perf_counter()
    answers = answer_ids(assistant, conversations, brief, prompts=[row.prompt for row in rows])
    return time.perf_counter() - started, max(map(len, answers))
