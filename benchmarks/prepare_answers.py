"""Child program: a model's folder, its prompts in token ids, and GGUF files of it; prints all as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from answers import ANSWER_TOKENS, ONE_BY_ONE, QUESTIONS, TOGETHER
from prepare import model_folder
from transformers import AutoConfig, AutoTokenizer

from lorakit.data_processing import ChatFormat, Message
from lorakit.export.gguf.model import write_model_gguf
from lorakit.export.weights.checkpoint import read_checkpoint


def main() -> None:
    """Prepare one model: ``prepare_answers.py MODEL CACHE``."""
    model, cache = sys.argv[1], Path(sys.argv[2])
    folder = model_folder(model, cache)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat_format = ChatFormat(tokenizer)
    files = {dtype: cache / f"{model}-{dtype}.gguf" for dtype in ("bf16", "q8_0")}
    for dtype, file in files.items():
        if not file.is_file():
            config, stops = AutoConfig.from_pretrained(folder), [chat_format.end_of_turn_id]
            tensors = read_checkpoint(folder)
            write_model_gguf(file, config, tensors, tokenizer, chat_format, stops, dtype, model)
    prompts = [chat_format.prompt_ids([Message("user", question)]) for question in QUESTIONS]
    print(
        json.dumps(
            {
                "model_folder": str(folder),
                "gguf": {dtype: str(file) for dtype, file in files.items()}
                | {"q4_0": str(cache / f"{model}-q4_0.gguf")},
                "prompts": prompts,
                "answer_tokens": ANSWER_TOKENS,
                "one_by_one": ONE_BY_ONE,
                "together": TOGETHER,
            }
        )
    )


if __name__ == "__main__":
    main()
