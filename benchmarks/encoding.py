"""A row as token ids with the right mask, by the plainest means: the chat template, and nothing of lorakit."""

from __future__ import annotations

from typing import Any

from spec import question_of

IGNORED_LABEL = -100


def encode_row(row: dict[str, str], tokenizer: Any) -> dict[str, list[int]]:
    """Encode a row so that only the answer and its end-of-turn token carry loss.

    Args:
        row: In the Alpaca format.
        tokenizer: Of transformers, with a chat template that ends an answer with the end-of-sequence token.

    Returns:
        ``input_ids`` and ``labels``, of equal length.
    """
    question = {"role": "user", "content": question_of(row)}
    answer = {"role": "assistant", "content": row["output"]}
    prompt = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    written = tokenizer.apply_chat_template([question, answer], tokenize=False)[len(prompt) :]
    end = tokenizer.eos_token
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(written[: written.rindex(end) + len(end)], add_special_tokens=False)["input_ids"]
    return {"input_ids": prompt_ids + answer_ids, "labels": [IGNORED_LABEL] * len(prompt_ids) + answer_ids}
