"""An adapter made elsewhere, with tokens and a chat template of its own."""

import shutil

import pytest
import torch
from conftest import save_family
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorakit.config import Config
from lorakit.data_processing import Message
from lorakit.errors import AdapterError
from lorakit.inference import open_adapters

TEMPLATE = "{% for message in messages %}<doc>{{ message.content }}</doc>{% endfor %}"


@pytest.fixture
def base(tmp_path):
    return save_family("llama", tmp_path / "base")


def made_elsewhere(base, folder, **lora):
    """An adapter with two added tokens, by plain transformers and PEFT."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<doc>", "</doc>"])
    tokenizer.chat_template = TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    model.resize_token_embeddings(len(tokenizer))
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2, **lora))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    return folder


def opened(base, folder):
    return open_adapters(Config(model_name_or_path=str(base), lora_model_path=[str(folder)], torch_dtype="float32"))


def test_its_tokenizer_and_template_are_used_as_plain_transformers_and_peft_use_them(base, tmp_path):
    folder = made_elsewhere(base, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    assistant = opened(base, folder).assistant
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = assistant.prompt_ids([Message("user", "hi")])
    assert ids == tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], return_dict=False)
    assert tokenizer.convert_tokens_to_ids("<doc>") in ids
    plain = AutoModelForCausalLM.from_pretrained(base)
    plain.resize_token_embeddings(len(tokenizer))
    plain = PeftModel.from_pretrained(plain, folder).eval()
    with torch.inference_mode():
        expected, found = (model(torch.tensor([ids])).logits for model in (plain, assistant.bundle.model))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_added_tokens_without_rows_are_refused(base, tmp_path):
    folder = made_elsewhere(base, tmp_path / "adapter")
    with pytest.raises(AdapterError, match="brings none for the others"):
        opened(base, folder)


def test_a_tokenizer_of_another_model_is_refused(base, tmp_path):
    folder = made_elsewhere(base, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    other = save_family("qwen3", tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(other / name, folder / name)
    with pytest.raises(AdapterError, match="its tokenizer is of another model"):
        opened(base, folder)
