"""What else an adapter has changed: a few general questions, with and without it."""

from __future__ import annotations

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import Message
from lorakit.evaluate.metrics import without_reasoning
from lorakit.inference import Assistant
from lorakit.inference.generation import answer_batch
from lorakit.inference.sampling import SamplingParams
from lorakit.report import GeneralAnswers

_MOST_NEW_TOKENS = 24
_FEWEST_NEW_TOKENS = 8  # shorter beginnings tell nothing
QUESTIONS = (
    "中国的首都是哪座城市？",
    "请把这句话翻译成英文：今天天气很好。",
    "十七加二十五等于多少？",
    "用一句话解释什么是光合作用。",
    "What is the capital of France?",
    "Name three primary colours.",
    "What is 12 times 8?",
    "Write one sentence about the sea.",
)


def general_answers(assistant: Assistant, config: Config) -> list[GeneralAnswers]:
    """Ask the fixed questions of the base and of the tuned model, greedily and briefly.

    Args:
        assistant: With an adapter.
        config: Its ``max_new_tokens`` is kept where it is smaller; where it is very small, nothing is asked.
    """
    longest = min(config.max_new_tokens, _MOST_NEW_TOKENS)
    if longest < _FEWEST_NEW_TOKENS:
        return []
    greedy, at_once = SamplingParams(longest), config.per_device_eval_batch_size
    with console.progress(None, "asking general questions"):
        with assistant.without_adapter():
            base = _answers(assistant, greedy, at_once)
        tuned = _answers(assistant, greedy, at_once)
    return [GeneralAnswers(*texts) for texts in zip(QUESTIONS, base, tuned, strict=True)]


def _answers(assistant: Assistant, params: SamplingParams, size: int) -> list[str]:
    answers: list[str] = []
    for start in range(0, len(QUESTIONS), size):
        conversations = [[Message("user", question)] for question in QUESTIONS[start : start + size]]
        answers += answer_batch(assistant, conversations, params)
    return [without_reasoning(answer) for answer in answers]
