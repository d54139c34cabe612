"""Whether answers may be computed from weights in 8 bits: where the greedy answers to validation rows are the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import Example
from lorakit.inference import Assistant, Decoders
from lorakit.inference.generation import answer_ids
from lorakit.inference.sampling import SamplingParams
from lorakit.inference.weights.int8_verdict import Verdict, keep_verdict, verdict_key
from lorakit.model_config import AdapterChoice

_MOST_ROWS = 20


def try_int8(
    assistant: Assistant, adapters: Sequence[AdapterChoice], examples: Sequence[Example], config: Config
) -> Verdict | None:
    """Answer rows greedily with weights as they are held and in 8 bits, say how many are the same, and keep it.

    Args:
        assistant: With the adapters, or as the base.
        adapters: In use.
        examples: Of which the first ones are asked.
        config: Nothing is tried unless its ``decode_weights`` is auto.

    Returns:
        None where nothing was tried.
    """
    if config.decode_weights != "auto" or assistant.decoding.decoder is None:
        return None
    limit = getattr(assistant.bundle.model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    asked, prompts = [], []
    for example in examples[:_MOST_ROWS]:
        prompt = assistant.asked_ids(example.messages[:-1], example.messages[-1].content, config.max_length)
        if len(prompt) < limit:
            asked.append(example.messages[:-1])
            prompts.append(prompt)
    if not asked:
        return None
    greedy, at_once = SamplingParams(config.max_new_tokens), config.per_device_eval_batch_size
    decoders = Decoders(assistant.bundle, config)
    with console.progress(None, "trying weights in 8 bits"):
        same, packed = (
            answer_ids(
                replace(assistant, decoding=decoders.reading(weights, "to compare")),
                asked,
                greedy,
                prompts=prompts,
                at_once=at_once,
            )
            for weights in ("same", "int8")
        )
    verdict = Verdict(len(asked), sum(one == other for one, other in zip(same, packed, strict=True)))
    keep_verdict(verdict_key(assistant.bundle.source, adapters), verdict)
    console.detail(f"decode_weights: {'int8' if verdict.is_same else 'same'} from now on (with int8 {verdict})")
    return verdict
