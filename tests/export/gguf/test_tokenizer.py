"""A tokenizer in a GGUF file: every token, how text is split, and where answers end."""

import pytest
from conftest import family_tokenizer, make_tokenizer, real_template
from export_models import metadata, random_model, write
from gguf.constants import TokenType
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from transformers import AutoTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from lorakit.data_processing import ChatFormat
from lorakit.errors import ModelError
from lorakit.export.gguf.tokenizer import begins_with_bos, splitting_name, token_table
from lorakit.model_config.starter import starter_folder

LLAMA_3_REGEX = PRETOKENIZE_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)


def by(regex):
    return pre_tokenizers.Split(Regex(regex), behavior="isolated")


def definition(*steps, **model):
    from json import loads

    tokenizer = family_tokenizer("gpt2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    found = loads(tokenizer.backend_tokenizer.to_str())
    return found | {"model": found["model"] | model}


@pytest.mark.parametrize(
    ("steps", "ignore_merges", "name"),
    [
        ([WORDS], False, "gpt-2"),
        ([DIGITS, WORDS], False, "smollm"),
        ([by(PRETOKENIZE_REGEX), BYTES], False, "qwen2"),
        ([by(LLAMA_3_REGEX), BYTES], True, "llama-bpe"),
        ([by(LLAMA_3_REGEX), BYTES], False, "dbrx"),
    ],
)
def test_the_name_of_a_splitting(steps, ignore_merges, name):
    assert splitting_name(definition(*steps, ignore_merges=ignore_merges)) == name


@pytest.mark.parametrize(
    "steps",
    [
        [by("abc"), BYTES],
        [by(PRETOKENIZE_REGEX), WORDS],
        [pre_tokenizers.Digits(individual_digits=False), WORDS],
        [pre_tokenizers.ByteLevel(add_prefix_space=True)],
        [pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="removed"), BYTES],
        [pre_tokenizers.Split(" ", behavior="isolated"), BYTES],
        [pre_tokenizers.Metaspace()],
    ],
)
def test_an_unknown_splitting_is_refused(steps):
    with pytest.raises(ModelError, match="splits text in a way"):
        splitting_name(definition(*steps))


def test_a_tokenizer_that_changes_text_is_refused():
    changing = definition(WORDS) | {"normalizer": {"type": "Lowercase"}}
    with pytest.raises(ModelError, match="Lowercase"):
        splitting_name(changing)
    assert splitting_name(definition(WORDS) | {"normalizer": {"type": "NFC"}}) == "gpt-2"


def test_the_starter_model_splits_as_smollm():
    from json import loads

    tokenizer = AutoTokenizer.from_pretrained(starter_folder())
    assert splitting_name(loads(tokenizer.backend_tokenizer.to_str())) == "smollm"


def test_every_token_has_its_text_and_its_type():
    tokenizer = family_tokenizer("qwen3")
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    texts, types = token_table(tokenizer, len(tokenizer) + 2)
    assert texts[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert texts[-3:] == ["<think>", f"[PAD{len(tokenizer)}]", f"[PAD{len(tokenizer) + 1}]"]
    of = dict(zip(texts, types, strict=True))
    assert of["<|im_end|>"] == of["<|endoftext|>"] == TokenType.CONTROL
    assert of["<think>"] == TokenType.USER_DEFINED
    assert of["a"] == TokenType.NORMAL
    assert types[-2:] == [TokenType.UNUSED] * 2


def test_rows_beyond_the_tokenizer_are_filled(tmp_path):
    model, tokenizer = random_model("llama", vocab_size=704)
    found = metadata(write(model, tokenizer, tmp_path / "m.gguf"))
    assert len(found["tokenizer.ggml.tokens"]) == len(found["tokenizer.ggml.token_type"]) == 704
    assert found["llama.vocab_size"] == 704


def test_the_end_of_turn_that_was_trained_ends_answers(tmp_path):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = make_tokenizer(real_template("qwen3"), special, end="<|endoftext|>")
    model, _ = random_model("qwen3", vocab_size=len(tokenizer))
    end, own = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    found = metadata(write(model, tokenizer, tmp_path / "m.gguf", stop_ids=[end, own]))
    assert found["tokenizer.ggml.eos_token_id"] == found["tokenizer.ggml.eot_token_id"] == end
    assert found["tokenizer.ggml.eom_token_id"] == own


def test_merges_template_and_the_rest_are_those_of_the_tokenizer(tmp_path):
    model, tokenizer = random_model("qwen3")
    found = metadata(write(model, tokenizer, tmp_path / "m.gguf"))
    assert found["tokenizer.ggml.model"] == "gpt2"
    assert found["tokenizer.chat_template"] == tokenizer.chat_template
    assert found["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert "tokenizer.ggml.eot_token_id" not in found
    assert found["tokenizer.ggml.add_bos_token"] is False
    text = "The quick brown fox, 2024 年！"
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_model_without_a_chat_template_gets_the_plain_one_it_was_trained_with(tmp_path):
    model, tokenizer = random_model("gpt2")
    found = metadata(write(model, tokenizer, tmp_path / "m.gguf"))
    assert "### Question:" in found["tokenizer.chat_template"]


def test_a_beginning_is_added_only_where_trained_texts_have_it(tmp_path):
    model, tokenizer = random_model("llama")
    assert metadata(write(model, tokenizer, tmp_path / "m.gguf"))["tokenizer.ggml.add_bos_token"] is True
    tokenizer.chat_template = real_template("qwen3")
    assert not begins_with_bos(ChatFormat(tokenizer))


def test_other_kinds_of_tokenizer_are_refused(tmp_path):
    model, tokenizer = random_model("llama")
    state = tokenizer.backend_tokenizer
    state.normalizer = normalizers.Prepend("▁")
    with pytest.raises(ModelError, match="Prepend"):
        write(model, tokenizer, tmp_path / "m.gguf")
    state.normalizer = None
    state.model.byte_fallback = True
    with pytest.raises(ModelError, match="prepares text in a way"):
        write(model, tokenizer, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())
