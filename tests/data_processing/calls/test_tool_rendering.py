"""Every chat template of the installed ``trl`` writes tools, calls and results, or the row is refused by name."""

import json

import pytest
from conftest import family_tokenizer
from tokenizer_kinds import template_names, tokenizer_of

from lorakit.data_processing import ChatFormat, Example, Message, ToolCall
from lorakit.data_processing.calls.tool_calls import read_tools
from lorakit.data_processing.example import Rejected
from lorakit.data_processing.tokens.encoding import encode_row
from lorakit.engine import IGNORED_LABEL

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where."},
        "days": {"type": "integer", "description": "d"},
    },
    "required": ["city"],
}
TOOLS = read_tools([{"name": "weather", "description": "Tells the weather.", "parameters": PARAMETERS}])
CALL = ToolCall("weather", json.dumps({"city": "Oslo", "days": 3}), "abcdefghi")
RESULT = Message("tool", '{"celsius": 21}', name="weather", call_id="abcdefghi")
ROW = (
    Message("tools", TOOLS),
    Message("user", "Warm in Oslo?"),
    Message("assistant", "", tool_calls=(CALL,)),
    RESULT,
    Message("assistant", "Yes, quite."),
)
# Those that take tools at all, by what `apply_chat_template` writes of this row.
WITHOUT = {
    *("cohere", "cohere2", "gemma", "gemma3", "idefics3", "llama3", "llava_next", "phi3", "phi3_5", "smolvlm"),
    *("deepseek_r1_distill", "deepseekv3", "lfm2", "qwen2_5_vl"),  # calls without tools, or tools without calls
}


def trained_text(tokenizer, row):
    """All trained tokens, sequence by sequence."""
    kept = [[label for label in sequence.labels if label != IGNORED_LABEL] for sequence in row.sequences]
    return "".join(tokenizer.decode(labels, clean_up_tokenization_spaces=False) for labels in kept)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", template_names())
def test_calls_are_trained_and_results_are_not_or_the_row_is_refused(name):
    tokenizer = tokenizer_of("byte-level", name, "<eos>")
    outcome = encode_row(Example(ROW, "row"), ChatFormat(tokenizer), 4096)
    if isinstance(outcome, Rejected):
        assert name in WITHOUT
        assert "chat template" in outcome.reason
        return
    assert name not in WITHOUT
    trained = trained_text(tokenizer, outcome)
    assert "weather" in trained
    assert trained.count("Oslo") == 1
    assert "Yes, quite." in trained
    assert "celsius" not in trained
    assert "Tells the weather." not in trained
    whole = tokenizer.decode(outcome.sequences[-1].input_ids)
    assert all(text in whole for text in ("Tells the weather.", "celsius", "Oslo"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_template_without_tools_refuses_the_row_by_name(family):
    outcome = encode_row(Example(ROW, "row"), ChatFormat(family_tokenizer(family)), 4096)
    assert outcome.reason == "the chat template has no place for tools"
    assert "Qwen3" in outcome.hint
    called = encode_row(Example(ROW[1:], "row"), ChatFormat(family_tokenizer(family)), 4096)
    assert called.reason.startswith("the chat template has no place for calls")


@pytest.mark.parametrize("name", ["qwen3", "qwen3_6", "nemotron_3_nano", "glm4moe", "deepseek_r1_distill", "gptoss"])
def test_reasoning_may_be_left_out_of_the_loss(name):
    tokenizer = tokenizer_of("byte-level", name, "<eos>")
    chat_format = ChatFormat(tokenizer)
    example = Example((Message("user", "q"), Message("assistant", "The fox.", reasoning="Let me see.")), "row")
    [whole] = encode_row(example, chat_format, 1024).sequences
    row = encode_row(example, chat_format, 1024, trains_reasoning=False)
    [sequence] = row.sequences
    assert sequence.input_ids == whole.input_ids
    trained = trained_text(tokenizer, row)
    assert trained.startswith("The fox.")
    assert "see" not in trained
    assert trained_text(tokenizer, encode_row(example, chat_format, 1024)).endswith(trained)


def test_an_answer_without_reasoning_is_trained_whole_all_the_same():
    chat_format = ChatFormat(family_tokenizer("qwen3"))
    example = Example((Message("user", "q"), Message("assistant", "The fox.")), "row")
    assert encode_row(example, chat_format, 99, False) == encode_row(example, chat_format, 99)
