"""What a model's template writes of calls is read back, and calls are compared as values."""

import json
import time

import pytest
from conftest import family_tokenizer, make_tokenizer
from tokenizer_kinds import template_names, tokenizer_of

from lorakit.data_processing import ChatFormat, Message, ToolCall
from lorakit.data_processing.calls.tool_calls import read_tools
from lorakit.errors import SettingsError
from lorakit.inference.assistant import Assistant
from lorakit.inference.text.tool_calls import _STYLES, Answer, CallReader, read_tools_file, same_calls

# Templates of the installed ``trl`` that take no calls at all.
WITHOUT = {
    *("cohere", "cohere2", "gemma", "gemma3", "idefics3", "lfm2", "llama3", "llava_next", "phi3", "phi3_5", "smolvlm"),
    *("deepseek_r1_distill", "deepseekv3", "qwen2_5_vl"),
}
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "d"},
        "days": {"type": "integer", "description": "d"},
        "units": {"type": "array", "items": {"type": "string"}, "description": "d"},
    },
    "required": ["city"],
}
TOOLS = read_tools([{"name": "weather", "description": "d", "parameters": PARAMETERS}])
ARGUMENTS = {"city": "Oslo 12", "days": 3, "units": ["°C", "m/s"]}
CALL = ToolCall("weather", json.dumps(ARGUMENTS, ensure_ascii=False), "abcdefghi")


def chat_format(name):
    return ChatFormat(tokenizer_of("byte-level", name, "<eos>"))


@pytest.mark.every(3)
@pytest.mark.parametrize("name", [name for name in template_names() if name not in WITHOUT])
def test_what_the_template_writes_of_a_call_is_read_back(name):
    own = chat_format(name)
    reader = CallReader.of(own)
    assert reader.is_known
    conversation = [Message("tools", TOOLS), Message("user", "q"), Message("assistant", "", tool_calls=(CALL,))]
    [turn] = own.turns(conversation)
    answer = reader.read(turn.answer.partition(own.end_of_turn)[0], TOOLS)
    assert same_calls(answer.calls, [CALL])


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_a_template_that_takes_no_calls_has_none_to_read(name):
    assert not CallReader.of(chat_format(name)).is_known


def test_text_beside_calls_stays_and_broken_calls_are_text():
    reader = CallReader.of(chat_format("qwen3"))
    good = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert reader.read(f"Let me look.\n{good}\n{good}").text == "Let me look."
    assert len(reader.read(f"{good}{good}").calls) == 2
    for broken in ("<tool_call>{}</tool_call>", '<tool_call>{"name": 3}</tool_call>', "<tool_call>x</tool_call>", "a"):
        assert reader.read(broken) == Answer(broken)


def test_a_template_without_tools_reads_no_calls():
    plain = make_tokenizer(None, ["<|endoftext|>"], "<|endoftext|>")
    assert not CallReader.of(ChatFormat(plain)).is_known
    assert CallReader(None).read("text") == Answer("text")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, True),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": None}, {}, False),
    ],
)
def test_arguments_are_compared_as_values(one, other, is_same):
    calls = [ToolCall("f", json.dumps(arguments)) for arguments in (one, other)]
    assert same_calls(calls[:1], calls[1:]) is is_same


def test_calls_side_by_side_may_stand_in_any_order_but_not_twice():
    one, two = ToolCall("f", "{}"), ToolCall("g", "{}")
    assert same_calls([one, two], [two, one])
    assert not same_calls([one, one], [one, two])
    assert not same_calls([], [one])


@pytest.mark.parametrize("text", ["{", "3", '["x"]', '[{"type": "web_search"}]', "null"])
def test_a_file_that_holds_no_tools_is_refused(tmp_path, text):
    (tmp_path / "tools.json").write_text(text)
    with pytest.raises(SettingsError, match="is not a list of tools"):
        read_tools_file(str(tmp_path / "tools.json"))
    with pytest.raises(SettingsError, match="there is no such file"):
        read_tools_file(str(tmp_path / "none.json"))


def test_the_tools_of_a_conversation_win_over_those_of_the_settings():
    own = ChatFormat(family_tokenizer("qwen3"))
    other = read_tools([{"name": "stocks", "description": "d", "parameters": PARAMETERS}])
    assistant = Assistant(None, own, False, "S", False, None, tools=TOOLS)
    question = Message("user", "q")
    system = Message("system", "S")
    assert assistant.prompt_ids([question]) == own.prompt_ids([Message("tools", TOOLS), system, question])
    asked = [Message("tools", other), question]
    assert assistant.prompt_ids(asked) == own.prompt_ids([asked[0], system, question])
    assert assistant.tools_of(asked) == other
    assert assistant.tools_of([question]) == TOOLS


BEGINNINGS = (
    *("<tool_call>{", "<tool_call> ", "<tool_call><function=", "<tool_call><arg_key>", "<|tool_call_start|>", "{ "),
    *("<|tool_call>call:", "<x:function_calls>", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "to=functions.a", "} "),
    *("[TOOL_CALLS][", "[TOOL_CALLS]a[ARGS]{", "[TOOL_CALLS] ", "<|START_ACTION|>[", "<function=", "<parameter=a>"),
    *(
        '<x:invoke name="',
        '<x:parameter name="a">',
        "<arg_key>",
        "</arg_key> ",
        "to=functions.",
        ".-",
        "[",
        "]",
        "(",
        " ",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("piece", BEGINNINGS)
def test_a_million_beginnings_of_calls_take_no_more_than_ten_seconds(piece):
    text = piece * (1_000_000 // len(piece))
    whole = ["{}", "<tool_call>{}</tool_call>", "<tool_call><function=a>{}</function></tool_call>", "<tool_call>a{}"]
    whole += ["<|tool_call>call:{}<tool_call|>", "to=functions.{}{{}}", "<|tool_call_start|>{}<|tool_call_end|>"]
    whole += ['<x:function_calls><x:invoke name="a">{}</x:invoke></x:function_calls>', "<tool_call>a{}</tool_call>"]
    started = time.process_time()
    for style in _STYLES:
        for around in whole:
            CallReader(style).read(around.format(text))
    assert time.process_time() - started < 10
