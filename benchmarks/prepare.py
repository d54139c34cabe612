"""Child program: builds a job's model, writes its rows and counts its work; prints the result as JSON.

Only this process and the tools load torch: the process that measures them stays small, because a child's peak memory
is never less than its parent's size.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from encoding import IGNORED_LABEL, encode_row
from jobs import JOBS, RANDOM_QWEN3, RANDOM_QWEN3_VL, STARTER, Work, alpaca_rows, layer_parameters
from picture_job import picture_work, vision_model, write_rows
from transformers import AutoTokenizer, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from lorakit.model_config.starter import starter_folder

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def model_folder(model: str, cache: Path) -> Path:
    """Return the folder of a job's model, building it on first use."""
    builders: dict[str, Callable[[], Path]] = {
        STARTER: starter_folder,
        RANDOM_QWEN3: lambda: _random_qwen3(cache / RANDOM_QWEN3),
        RANDOM_QWEN3_VL: lambda: vision_model(cache / RANDOM_QWEN3_VL),
    }
    return builders[model]()


def _random_qwen3(folder: Path) -> Path:
    if folder.is_dir():
        return folder
    import torch

    starter = starter_folder()
    tokenizer = AutoTokenizer.from_pretrained(starter)
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model: PreTrainedModel = Qwen3ForCausalLM(config)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        built = Path(temporary) / "built"
        model.save_pretrained(built)
        for name in _TOKENIZER_FILES:
            if (starter / name).is_file():
                shutil.copy(starter / name, built / name)
        os.replace(built, folder)
    return folder


def main() -> None:
    """Prepare one job: ``prepare.py JOB ROWS ROWS_FILE CACHE``."""
    job = JOBS[sys.argv[1]]
    count, rows_file = int(sys.argv[2]), Path(sys.argv[3])
    folder = model_folder(job.model, Path(sys.argv[4]))
    if job.has_pictures:
        work = picture_work(write_rows(count, rows_file), folder, job.epochs)
    else:
        work = _text_work(count, rows_file, folder)
    print(json.dumps({"model_folder": str(folder), "work": asdict(work)}))


def _text_work(count: int, rows_file: Path, folder: Path) -> Work:
    rows, source = alpaca_rows(count)
    rows_file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    encoded = [encode_row(row, tokenizer) for row in rows]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Work(
        rows=len(rows),
        tokens=sum(len(row["input_ids"]) for row in encoded),
        target_tokens=sum(label != IGNORED_LABEL for row in encoded for label in row["labels"]),
        layer_parameters=layer_parameters(config),
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        rows_source=source,
        weight_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    )


if __name__ == "__main__":
    main()
