"""Child program: answers by llama.cpp, through its own C interface; it imports nothing of lorakit."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp

_CONTEXT_TOKENS = 2048  # of all answers together


class Opened:
    """A model, and as many greedy answers at once as are asked for."""

    def __init__(self, file: str) -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = _CONTEXT_TOKENS
        settings.n_seq_max = 8
        settings.kv_unified = True
        settings.n_threads = settings.n_threads_batch = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(_CONTEXT_TOKENS, 0, 1)

    def answer(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """Return so many tokens for each prompt."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        ends = [len(prompt) for prompt in prompts]
        fed = [
            (which, place, token, place == len(prompt) - 1)
            for which, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        answers: list[list[int]] = [[] for _ in prompts]
        for _ in range(tokens):
            for which, token in enumerate(self._next(fed)):
                answers[which].append(token)
            fed = [(which, ends[which] + len(own) - 1, own[-1], True) for which, own in enumerate(answers)]
        return answers

    def _next(self, fed: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        batch, places = self.batch, []
        batch.n_tokens = len(fed)
        for at, (which, place, token, is_last) in enumerate(fed):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, place, 1
            batch.seq_id[at][0], batch.logits[at] = which, is_last
            if is_last:
                places.append(at)
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        return [self._best(at) for at in places]

    def _best(self, at: int) -> int:
        import numpy

        logits = llama_cpp.llama_get_logits_ith(self.context, at)
        return int(numpy.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: Any) -> None:
    """Take what llama.cpp says while it loads."""


def _quantised(spec: dict[str, Any]) -> str:
    """Return the file of the wanted weights; Q4_0 is made by llama.cpp's own quantiser."""
    file = Path(spec["gguf"][spec["weights"]])
    if not file.is_file():
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
        source = spec["gguf"]["bf16"].encode()
        if llama_cpp.llama_model_quantize(source, str(file).encode(), ctypes.byref(settings)) != 0:
            raise RuntimeError("llama.cpp could not quantise")
    return str(file)


def main() -> None:
    """Measure as the JSON on the command line says, and print the result as JSON."""
    spec = json.loads(sys.argv[1])
    file = _quantised(spec)
    started = time.perf_counter()
    opened = Opened(file)
    load_seconds = time.perf_counter() - started
    tokens, prompts = spec["answer_tokens"], spec["prompts"]
    opened.answer(prompts[-1:], tokens)
    started = time.perf_counter()
    for prompt in prompts[: spec["one_by_one"]]:
        opened.answer([prompt], tokens)
    one = spec["one_by_one"] * tokens / (time.perf_counter() - started)
    started = time.perf_counter()
    opened.answer(prompts[: spec["together"]], tokens)
    together = spec["together"] * tokens / (time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(json.dumps({"one": one, "together": together, "load_seconds": load_seconds, "peak_gigabytes": peak}))


if __name__ == "__main__":
    main()
