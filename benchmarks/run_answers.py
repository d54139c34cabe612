"""Child program: answers by lorakit's decoder, by ``generate`` of its model, or by plain transformers."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Answer = Callable[[Sequence[Sequence[int]]], object]


def main() -> None:
    """Measure as the JSON on the command line says, and print the result as JSON."""
    spec = json.loads(sys.argv[1])
    started = time.perf_counter()
    answer = {"lorakit": _by_lorakit, "generate": _by_generate, "transformers": _by_transformers}[spec["way"]](spec)
    load_seconds = time.perf_counter() - started
    tokens, prompts = spec["answer_tokens"], spec["prompts"]
    answer(prompts[-1:])  # what is done once only
    started = time.perf_counter()
    for prompt in prompts[: spec["one_by_one"]]:
        answer([prompt])
    one = spec["one_by_one"] * tokens / (time.perf_counter() - started)
    started = time.perf_counter()
    answer(prompts[: spec["together"]])
    together = spec["together"] * tokens / (time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(json.dumps({"one": one, "together": together, "load_seconds": load_seconds, "peak_gigabytes": peak}))


def _by_lorakit(spec: dict[str, Any]) -> Answer:
    from lorakit.config import Config
    from lorakit.inference import open_adapters
    from lorakit.inference.decoding import Writing, write_answers
    from lorakit.inference.sampling import SamplingParams

    params, most = SamplingParams(spec["answer_tokens"]), spec["answer_tokens"]
    config = Config(
        model_name_or_path=spec["model_folder"],
        use_original_model=True,
        torch_dtype="bfloat16",
        decode_weights=spec["decode_weights"],
    )
    decoder = open_adapters(config).assistant.decoding.decoder
    assert decoder is not None, "lorakit does not decode here"
    _ = decoder.weight_bytes  # packs, as the first question would

    def answer(prompts: Sequence[Sequence[int]]) -> object:
        return write_answers(decoder, prompts, Writing([most] * len(prompts), (), params, len(prompts)))

    return answer


def _by_generate(spec: dict[str, Any]) -> Answer:
    from lorakit.config import Config
    from lorakit.inference import open_adapters

    config = Config(model_name_or_path=spec["model_folder"], use_original_model=True, torch_dtype="bfloat16")
    return _generating(open_adapters(config).assistant.bundle.model, spec["answer_tokens"])


def _by_transformers(spec: dict[str, Any]) -> Answer:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(spec["model_folder"], dtype=torch.bfloat16)
    return _generating(model.eval(), spec["answer_tokens"])


def _generating(model: Any, tokens: int) -> Answer:
    def answer(prompts: Sequence[Sequence[int]]) -> object:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            return model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens
            )

    return answer


if __name__ == "__main__":
    main()
