"""Tiny models of the real classes with a small real tokenizer: everything runs offline in seconds."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# PyTorch and transformers are imported where they are needed: the process that hands out tests needs neither.
if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]
TRAIN_FILE = ROOT / "data" / "train.json"
VALIDATION_FILE = ROOT / "data" / "validation.json"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FAMILIES = ("qwen3", "llama", "gpt2", "opt")
# For what takes seconds a family: the two that differ most, the others among the slow tests.
SOME_FAMILIES = ("qwen3", "gpt2", *(pytest.param(family, marks=pytest.mark.slow) for family in ("llama", "opt")))


def examples(count: int) -> int:
    """How many examples a property is tried on: all of them in the slow tests, a quarter in the fast ones."""
    return count if os.environ.get("ALL_EXAMPLES") else count // 4


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of cases marked ``every(n)`` the fast tests take each n-th, of those marked ``every(0)`` none."""
    seen: Counter[str] = Counter()
    for item in items:
        if marker := item.get_closest_marker("every"):
            test = item.nodeid.partition("[")[0]
            if marker.args[0] == 0 or seen[test] % marker.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[test] += 1


def real_template(name: str) -> str:
    """A chat template as its model's maker ships it."""
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def make_tokenizer(
    chat_template: str | None, special: list[str], end: str, begin: str | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 700 tokens, trained on the project's own rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    rows = json.loads(TRAIN_FILE.read_text(encoding="utf-8"))
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([row["text"] + row["target"] for row in rows] + ["The quick brown fox."] * 9, trainer)
    if begin is not None:
        core.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, core.token_to_id(begin))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end, bos_token=begin)
    tokenizer.chat_template = chat_template
    return tokenizer


def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a tiny model: real chat templates for Qwen3 and Llama, none for GPT-2 and OPT."""
    if family == "qwen3":
        return make_tokenizer(real_template("qwen3"), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>")
    if family == "llama":
        special = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
        return make_tokenizer(real_template("llama3"), special, "<|eot_id|>", begin="<|begin_of_text|>")
    if family == "gpt2":
        return make_tokenizer(None, ["<|endoftext|>"], "<|endoftext|>")
    return make_tokenizer(None, ["<pad>", "</s>"], "</s>", begin="</s>")


def family_config(family: str, vocab_size: int) -> PretrainedConfig:
    """Two layers of 32 dimensions, without the dropout of the base, which training leaves off in the large ones too."""
    from transformers import GPT2Config, LlamaConfig, OPTConfig, Qwen3Config

    common = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    llama_like = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    if family == "qwen3":
        return Qwen3Config(**common, **llama_like, head_dim=8, intermediate_size=48, max_position_embeddings=2048)
    if family == "llama":
        return LlamaConfig(**common, **llama_like, intermediate_size=48, max_position_embeddings=2048)
    if family == "gpt2":
        dropouts = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
        return GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=1024, **dropouts)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48}
    return OPTConfig(**common, **sizes, word_embed_proj_dim=32, dropout=0.0, max_position_embeddings=1024)


def save_family(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny random model and its tokenizer as a model folder."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = family_tokenizer(family)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(family_config(family, len(tokenizer)))
    for parameter in model.parameters():  # the initial values are so small that every answer would be the same
        parameter.data += 0.1 * torch.randn_like(parameter)
        parameter.data = parameter.data.half().float()  # numbers that float16 holds as well
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a family's name to the folder of its tiny model."""
    root = tmp_path_factory.mktemp("models")

    def folder_of(family: str) -> Path:
        folder = root / family
        return folder if folder.is_dir() else save_family(family, folder)

    return folder_of


@pytest.fixture(scope="session", autouse=True)
def _emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compute with kernels of another kind of processor where this is asked for; `make test-processors` does."""
    level = os.environ.get("LORAKIT_TEST_EMULATED")
    with pytest.MonkeyPatch.context() as patch:
        if level:
            from emulated import Emulated

            from lorakit.engine.backends.cpu import backend, half_products

            load = Emulated(tmp_path_factory.mktemp("emulated"), level).load
            patch.setattr(backend, "load", load)
            patch.setattr(half_products, "load", load)
        yield


@pytest.fixture
def half_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply by half_products.cpp, on processors too where that is slow."""
    from lorakit.engine.backends.cpu import half_products

    kernel = half_products.half_kernel()
    monkeypatch.setattr(half_products, "_kernel_or_fault", lambda: kernel)


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes rows as a JSON file and returns its name."""

    def write(rows: object, name: str = "rows.json") -> str:
        file = tmp_path / name
        file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return str(file)

    return write
