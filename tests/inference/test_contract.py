"""What an adapter was trained with is kept, warned of, or refused with the difference spelled out."""

from dataclasses import replace

import pytest
from conftest import make_tokenizer, real_template

from lorakit.config import Config
from lorakit.data_processing import ChatFormat
from lorakit.data_processing.templates.template_identity import template_examples
from lorakit.errors import AdapterError
from lorakit.inference.assistant import as_trained
from lorakit.inference.contract import hold_to
from lorakit.model_config import AdapterRecord, ModelBundle, locate_model

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture
def tokenizer():
    return make_tokenizer(real_template("qwen3"), SPECIAL, "<|im_end|>")


@pytest.fixture
def bundle(model_folder):
    return ModelBundle(locate_model(str(model_folder("llama")), "huggingface"), None, None, "llama", None, None)


@pytest.fixture
def record(tokenizer, bundle):
    chat_format = ChatFormat(tokenizer)
    return AdapterRecord(
        base_model="base",
        base_fingerprint="",
        template_hash=chat_format.template_hash,
        end_of_turn="<|im_end|>",
        system_prompt="简短回答。",
        thinking=False,
        config_fingerprint=bundle.source.config_fingerprint(),
        rendering=chat_format.rendering(),
        examples=template_examples(tokenizer),
    )


def held(record, bundle, tokenizer, capsys, **settings):
    hold_to(record, bundle, ChatFormat(tokenizer), Config(**settings))
    return capsys.readouterr().err


def test_an_adapter_used_as_it_was_trained_hears_nothing(record, bundle, tokenizer, capsys):
    assert held(record, bundle, tokenizer, capsys) == ""


def test_a_template_that_writes_something_else_is_refused_with_both_texts(record, bundle, tokenizer, capsys):
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>user", "<|im_start|>human").replace(
        "'<|im_start|>' + message.role", "'<|im_start|>human'"
    )
    with pytest.raises(AdapterError, match=r"human.*where the one in training wrote.*user"):
        held(record, bundle, tokenizer, capsys)


def test_a_template_that_only_looks_different_is_taken_and_said(record, bundle, tokenizer, capsys):
    tokenizer.chat_template = "{# a comment #}" + tokenizer.chat_template
    assert "all 9 conversations that were tried come out the same" in held(record, bundle, tokenizer, capsys)


@pytest.mark.parametrize(
    "beginning",
    [
        "{% if messages[0].role == 'system' %}!{% endif %}",
        "{% if messages | length > 7 %}!{% endif %}",
        "{% if enable_thinking %}!{% endif %}",
    ],
)
def test_a_template_that_differs_only_at_times_is_refused_too(record, bundle, tokenizer, capsys, beginning):
    tokenizer.chat_template = beginning + tokenizer.chat_template
    with pytest.raises(AdapterError, match=r"'!.*where the one in training wrote"):
        held(record, bundle, tokenizer, capsys)


def test_other_special_tokens_are_noticed(record, bundle, tokenizer, capsys):
    tokenizer.add_special_tokens({"pad_token": "<|im_start|>"})
    assert "its special tokens are not those in training" in held(record, bundle, tokenizer, capsys)


def test_another_stop_token_is_refused(record, bundle, tokenizer, capsys):
    with pytest.raises(AdapterError, match=r"to end its answers with '</s>', this tokenizer ends them with '<\|im_end"):
        held(replace(record, end_of_turn="</s>"), bundle, tokenizer, capsys)


def test_a_template_with_a_clock_is_asked_as_on_the_day_of_its_training(bundle, record, capsys):
    special = ["<|eot_id|>", "<|begin_of_text|>"]
    chat_format = ChatFormat(make_tokenizer(real_template("llama3_2"), special, "<|eot_id|>"))
    trained = chat_format.dated("2026-02-03")
    record = replace(
        record,
        template_hash="another",
        end_of_turn="<|eot_id|>",
        rendering=trained.rendering(),
        examples=trained.examples(),
        template_date=trained.date,
    )
    hold_to(record, bundle, chat_format, Config())
    assert as_trained(chat_format, Config(), record).date == "2026-02-03"
    assert as_trained(chat_format, Config(template_date="today"), record).writes_today


DIFFERENCES = [
    ({}, {"system_prompt": "长篇回答。"}, "system_prompt differs from the one in training ('简短回答。')"),
    ({}, {"thinking": True}, "thinking is True, in training it was False"),
    ({"config_fingerprint": "x"}, {}, "is not the one the adapter was trained with"),
    ({"pixels": (1, 2)}, {}, "in training of 1 to 2: set min_pixels and max_pixels"),
    ({"template_hash": "x", "rendering": None}, {}, "the chat template differs"),
]


@pytest.mark.parametrize(("changed", "settings", "warning"), DIFFERENCES)
def test_lesser_differences_are_spelled_out(record, bundle, tokenizer, capsys, changed, settings, warning):
    assert warning in held(replace(record, **changed), bundle, tokenizer, capsys, **settings)
