"""llama.cpp itself opens what is written, reads text as the tokenizer does, and answers as transformers does.

LLAMA_CPP_PYTHON names a Python that has llama-cpp-python, which is no dependency of lorakit: ``make slow`` builds one.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import TRAIN_FILE
from export_models import OTHER_FAMILIES, adapted, logits, other_family, random_model, tensors_of, write
from sentencepiece_tokenizers import OWN_TOKENIZERS
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorakit.data_processing import ChatFormat, Message
from lorakit.export.gguf.adapter import adapter_weights, write_adapter_gguf
from lorakit.model_config.starter import starter_folder

PYTHON = os.environ.get("LLAMA_CPP_PYTHON")
RUNNER = Path(__file__).parents[1] / "llama_cpp_runner.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="LLAMA_CPP_PYTHON names no Python that has llama-cpp-python"),
]
TEXTS = (
    "Hello, world!",
    "  two spaces,\ttab\nline\n\n\n  and   three ",
    "你好，世界！我想在apple工作1314151天～",
    "def f(x):\n    return x ** 2  # a comment\n\n\nprint(f(12345))",
    "3 33 333 3333 33333 3.14159 1,000,000",
    "🚀 (normal) 😶‍🌫️ ✅ 👩‍👩‍👧",
    "I'm you've we'LL he'd DON'T y'all",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "naïve café Äpfel нещо на Български Cửa Việt",
    "ied 4 ½ months ² ³ ① Ⅷ",
    '{"key": [1, 2, {"a": null}]}; <tag attr=\'v\'/>',
    " \n \n\t\t\r\n ",
    "",
)
QUESTIONS = ("What is the capital of France?", "Write one line about the sea.", "2 + 3 =", "法国的首都是哪里？")
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


def llama_cpp(**request):
    outcome = subprocess.run(
        [PYTHON, str(RUNNER)], input=json.dumps(request, default=str), capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starter")
    tokenizer = AutoTokenizer.from_pretrained(starter_folder())
    model = AutoModelForCausalLM.from_pretrained(starter_folder(), dtype=torch.float32).eval()
    return model, tokenizer, write(model, tokenizer, folder / "starter.gguf")


def greedy(model, prompts, tokens):
    answers = []
    for prompt in prompts:
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False)
        answers.append(ids[0, len(prompt) :].tolist())
    return answers


def prompts_of(tokenizer):
    chat_format = ChatFormat(tokenizer)
    return [chat_format.prompt_ids([Message("user", question)]) for question in QUESTIONS]


def test_it_reads_text_as_the_tokenizer_does(starter):
    _, tokenizer, file = starter
    found = llama_cpp(model=file, texts=TEXTS)
    assert found["texts"] == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert found["end"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert found["begins"] is False


def test_it_answers_as_transformers_does(starter):
    model, tokenizer, file = starter
    prompts = prompts_of(tokenizer)
    found = llama_cpp(model=file, prompts=prompts, tokens=48, stops=[tokenizer.eos_token_id])
    assert found["answers"] == greedy(model, prompts, 48)
    for prompt, numbers in zip(prompts, found["logits"], strict=True):
        wanted = logits(model, prompt)[0, -1]
        assert (torch.tensor(numbers) - wanted).norm() / wanted.norm() < 1e-4


def test_an_adapter_is_put_on_top(starter, tmp_path):
    model, tokenizer, file = starter
    prompts = prompts_of(tokenizer)
    plain = greedy(model, prompts, 32)
    peft_model = adapted(model, r=8, lora_alpha=16)
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.06 * torch.randn_like(parameter)
    write_adapter_gguf(tmp_path / "lora.gguf", model.config, adapter_weights(peft_model), "random")
    wanted = greedy(peft_model, prompts, 32)
    peft_model.unload()
    stops = [tokenizer.eos_token_id]
    found = llama_cpp(model=file, lora=tmp_path / "lora.gguf", prompts=prompts, tokens=32, stops=stops)
    assert found["answers"] == wanted
    assert all(tuned != base for tuned, base in zip(wanted, plain, strict=True))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("qwen3", {"head_dim": 32}),
        ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 32, "rope_parameters": SCALINGS["linear"]}),
        ("llama", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
        ("llama", {"vocab_size": 704, "tie_word_embeddings": True}),
        ("llama", {"head_dim": 32, "rope_parameters": SCALINGS["llama3"]}),
        ("llama", {"rope_parameters": SCALINGS["linear"]}),
        ("llama", {"rope_parameters": SCALINGS["yarn"]}),
        ("qwen3", {"head_dim": 32, "rope_parameters": SCALINGS["yarn"]}),
        ("gpt2", {}),
        ("gpt2", {"tie_word_embeddings": False, "n_inner": 96}),
    ],
    ids=str,
)
def test_tiny_models_of_every_family_have_the_logits_of_transformers(family, settings, lora, tmp_path):
    model, tokenizer = random_model(family, **settings)
    request = {"model": write(model, tokenizer, tmp_path / "m.gguf"), "prompts": [list(range(5, 105))]}
    if lora:
        model = adapted(model, fan_in_fan_out=family == "gpt2", rank_pattern={"up_proj|c_fc": 2}, use_rslora=True)
        write_adapter_gguf(tmp_path / "lora.gguf", model.config, adapter_weights(model), "random")
        request["lora"] = tmp_path / "lora.gguf"
    found = torch.tensor(llama_cpp(**request)["logits"][0])
    tolerance = 2e-3 if family == "gpt2" else 1e-4  # llama.cpp takes GELU from a table of f16 numbers
    torch.testing.assert_close(found, logits(model, range(5, 105))[0, -1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_other_families_have_the_logits_and_the_answers_of_transformers(family, lora, tmp_path):
    model, tokenizer = other_family(family)
    prompts = [list(range(5, 45)), list(range(300, 250, -2))]  # longer than the windows
    request = {"model": write(model, tokenizer, tmp_path / "m.gguf"), "prompts": prompts, "tokens": 12}
    if lora:
        model = adapted(model, target_modules=r".*(_proj|lm_head)" if "phi" in family else r".*self_attn.*_proj")
        write_adapter_gguf(tmp_path / "lora.gguf", model.config, adapter_weights(model), "random")
        request["lora"] = tmp_path / "lora.gguf"
    found = llama_cpp(**request, texts=TEXTS)
    assert found["texts"] == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    tolerance = 1e-2 if "gemma" in family else 1e-4  # llama.cpp takes GELU from a table of f16 numbers
    for prompt, numbers in zip(prompts, found["logits"], strict=True):
        torch.testing.assert_close(torch.tensor(numbers), logits(model, prompt)[0, -1], rtol=tolerance, atol=tolerance)
    assert found["answers"] == greedy(model, prompts, 12)


@pytest.mark.parametrize("family", OWN_TOKENIZERS)
def test_tokenizers_of_every_kind_read_text_as_their_own_library_does(family, tmp_path):
    tokenizer = OWN_TOKENIZERS[family]()
    model, _ = other_family(family, vocab_size=len(tokenizer))
    words = [*TEXTS, *(row["target"] for row in json.loads(TRAIN_FILE.read_text(encoding="utf-8")))]
    chats = ([{"role": "user", "content": text}] for text in words if text.strip())
    turns = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    texts = [text for text in [*words, *turns, "a<table> b <|end|>  c\n\n<end_of_turn>\nd"] if text]
    found = llama_cpp(model=write(model, tokenizer, tmp_path / "m.gguf"), texts=texts)
    assert found["texts"] == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_it_opens_the_other_formats(starter, dtype, tmp_path):
    model, tokenizer, _ = starter
    prompts = prompts_of(tokenizer)[:1]
    file = write(model, tokenizer, tmp_path / "m.gguf", dtype, tensors_of(model))
    found = torch.tensor(llama_cpp(model=file, prompts=prompts)["logits"][0])
    wanted = logits(model, prompts[0])[0, -1]
    assert (found - wanted).norm() / wanted.norm() < 0.05
