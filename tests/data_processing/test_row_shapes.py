"""Each shape of row has exactly the tokens that `apply_chat_template` makes of the conversation, written by hand."""

import json

import pytest
from conftest import CHATML, family_tokenizer, make_tokenizer
from row_shapes import SHAPES

from lorakit.config.loading import make_config
from lorakit.data_processing import ChatFormat, load_dataset
from lorakit.engine import IGNORED_LABEL

QWEN = family_tokenizer("qwen3")
CHATML_TOKENIZER = make_tokenizer(CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>")


def reference(shape, tokenizer):
    """Every trained answer with all that stands before it, by nothing but the tokenizer's own chat template."""
    expected = []
    for place, message in enumerate(shape.messages):
        is_trained = message["role"] == "assistant" if shape.trained is None else place in shape.trained
        if not is_trained:
            continue
        tools = [json.loads(json.dumps(tool)) for tool in shape.tools] or None
        thinks = "reasoning_content" in message
        options = {"tools": tools, "tokenize": False, "enable_thinking": thinks}
        before = list(shape.messages[:place])
        prompt = tokenizer.apply_chat_template(before, add_generation_prompt=True, **options)
        whole = tokenizer.apply_chat_template([*before, message], add_generation_prompt=False, **options)
        assert whole.startswith(prompt)
        answer = whole[len(prompt) :].rpartition("<|im_end|>")
        expected.append((ids(tokenizer, prompt), ids(tokenizer, answer[0] + answer[1])))
    return expected


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def trained(dataset):
    """Every stretch of tokens with loss, and all tokens before it, of the first row's sequences."""
    found = []
    for sequence in dataset.encoded:
        if sequence.origin != dataset.examples[0].origin:
            continue
        labels = [*sequence.labels, IGNORED_LABEL]
        starts = [i for i in range(1, len(labels)) if labels[i] != IGNORED_LABEL and labels[i - 1] == IGNORED_LABEL]
        for start in starts:
            end = next(i for i in range(start, len(labels)) if labels[i] == IGNORED_LABEL)
            assert labels[start:end] == list(sequence.input_ids[start:end])
            found.append((list(sequence.input_ids[:start]), list(sequence.input_ids[start:end])))
    return found


def load(shape, tokenizer, tmp_path):
    file = tmp_path / "rows"
    file.write_bytes(shape.content)
    config = make_config({"train_file": str(file), "validation_file": None, **dict(shape.settings)}, "here")
    dataset = load_dataset(str(file), config, ChatFormat(tokenizer))
    assert not dataset.rejected
    assert not [fate for fate in dataset.fields if fate.remedy]
    return dataset


@pytest.mark.every(4)
@pytest.mark.parametrize("name", SHAPES)
def test_a_row_of_this_shape_has_the_tokens_and_the_mask_of_the_conversation_that_it_is(name, tmp_path):
    shape = SHAPES[name]
    assert trained(load(shape, QWEN, tmp_path)) == reference(shape, QWEN)


def is_plain(shape):
    return not shape.tools and not any("reasoning_content" in message for message in shape.messages)


@pytest.mark.every(2)
@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if is_plain(shape)])
def test_the_same_where_the_template_keeps_history(name, tmp_path):
    shape = SHAPES[name]
    assert trained(load(shape, CHATML_TOKENIZER, tmp_path)) == reference(shape, CHATML_TOKENIZER)


def test_there_are_at_least_eighty_shapes():
    assert len(SHAPES) >= 80
