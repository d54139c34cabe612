"""What a model thinks is told from what it says, in whatever way its chat template writes both."""

from itertools import product
from types import SimpleNamespace

import pytest
from tokenizer_kinds import KINDS, template_names, tokenizer_of

from lorakit.data_processing import ChatFormat, Message, ToolCall
from lorakit.data_processing.calls.tool_calls import read_tools
from lorakit.data_processing.templates.chat_template import TemplateError
from lorakit.evaluate.metrics import without_reasoning
from lorakit.inference.assistant import Assistant
from lorakit.inference.generation import answer_text
from lorakit.inference.streamer import TokenStreamer
from lorakit.inference.text.tool_calls import CallReader

THOUGHT, SAID = "The fox is quick.\n\nSo it jumps.", "The quick fox\n\njumps."
TOOLS = read_tools([{"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}])
# Whose thoughts stand between control tokens.
CHANNELS = ("diffusion_gemma", "gemma4", "gemma4_v5", "gptoss", "muse_glimmer")


def assistant_of(name, kind="byte-level"):
    tokenizer = tokenizer_of(kind, name, "<eos>")
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=tokenizer.eos_token_id))
    return Assistant(SimpleNamespace(model=model, tokenizer=tokenizer), ChatFormat(tokenizer), False, None, True, None)


def generated(assistant, *messages):
    """The tokens of the last answer as a model generates them, that ends it included."""
    *_, turn = assistant.chat_format.turns(messages)
    [(_, ids)] = assistant.chat_format.encode_turns([turn])
    return until_stop(assistant, ids)


def until_stop(assistant, ids):
    end = next((place for place, token in enumerate(ids) if token in assistant.stop_ids), len(ids))
    return ids[: end + 1]


def answered(assistant, reasoning=None, content=SAID):
    return generated(assistant, Message("user", "q"), Message("assistant", content, reasoning=reasoning))


def streamed(assistant, ids):
    shown = []
    streamer = TokenStreamer(assistant, is_cleaned=False, has_tools=False, show=shown.append)
    for token in ids:
        streamer.see(token)
    streamer.close()
    return "".join(shown)


@pytest.mark.every(3)
@pytest.mark.parametrize("has_tools", [False, True])
@pytest.mark.parametrize("name", template_names())
def test_answers_are_compared_without_their_thoughts(name, has_tools):
    assistant = assistant_of(name)
    assert without_reasoning(answer_text(assistant, answered(assistant), has_tools)) == SAID
    try:
        ids = answered(assistant, THOUGHT)
    except TemplateError:
        return  # it writes none
    text = answer_text(assistant, ids, has_tools)
    assert without_reasoning(text) == SAID
    assert THOUGHT in text


# Muse Glimmer's words "assistant to=user" are one stretch of text, which only byte-level tokenizers cut there.
@pytest.mark.every(4)
@pytest.mark.parametrize(
    ("name", "kind"),
    [pair for pair in product(CHANNELS, KINDS) if pair[0] != "muse_glimmer" or pair[1] == "byte-level"],
)
def test_thoughts_with_control_tokens_get_the_tags_that_rows_have(name, kind):
    assistant = assistant_of(name, kind)
    text = answer_text(assistant, answered(assistant, "The fox."), False)
    assert text.split() == ["<think>", "The", "fox.", "</think>", *SAID.split()]
    assert answer_text(assistant, answered(assistant), False) == SAID


@pytest.mark.every(9)
@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("reasoning", [None, THOUGHT])
def test_a_stream_shows_what_a_batch_gives(name, reasoning):
    assistant = assistant_of(name)
    ids = answered(assistant, reasoning)
    assert streamed(assistant, ids).split() == answer_text(assistant, ids, False).split()


@pytest.mark.parametrize("name", CHANNELS)
def test_a_thought_that_does_not_end_stays(name):
    assistant = assistant_of(name)
    whole = answered(assistant, THOUGHT)
    marks = assistant.thought_marks
    for length in range(len(whole)):
        text = answer_text(assistant, whole[:length], False)
        if len(marks.opening) < length and "</think>" not in text:
            assert text.startswith("<think>")
            assert without_reasoning(text) == text
    assert answer_text(assistant, [], False) == ""


@pytest.mark.parametrize("name", CHANNELS)
def test_a_thought_before_a_call_is_no_part_of_it(name):
    assistant = assistant_of(name)
    call = ToolCall("weather", '{"city": "Oslo"}', "abcdefghi")
    offered = [Message("tools", TOOLS), Message("user", "q")]
    texts = {
        reasoning: answer_text(
            assistant,
            generated(assistant, *offered, Message("assistant", "", reasoning=reasoning, tool_calls=(call,))),
            True,
        )
        for reasoning in (None, THOUGHT)
    }
    assert THOUGHT in texts[THOUGHT]
    assert without_reasoning(texts[THOUGHT]) == without_reasoning(texts[None])
    [found] = CallReader.of(assistant.chat_format).read(without_reasoning(texts[THOUGHT]), TOOLS).calls
    assert found.name == "weather"


def test_words_of_a_mark_alone_are_text():
    assistant = assistant_of("gptoss")
    ids = answered(assistant, content="analysis final assistant")
    assert answer_text(assistant, ids, False) == "analysis final assistant"
    plain = assistant.chat_format.encode("analysis<|channel|>")
    assert answer_text(assistant, plain, True) == "analysis<|channel|>"
