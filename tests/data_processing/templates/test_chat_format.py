"""The prompt contract: what inference feeds is exactly the masked prefix of the training row."""

import datetime
import re
from importlib.resources import files

import pytest
from conftest import CHATML, FAMILIES, family_tokenizer, make_tokenizer, real_template

from lorakit.data_processing import ChatFormat, Example, Message
from lorakit.data_processing.templates.chat_template import TemplateError
from lorakit.data_processing.tokens.encoding import encode_row
from lorakit.engine import IGNORED_LABEL
from lorakit.errors import DataError, ModelError, SettingsError

CONVERSATIONS = {
    "single": (Message("user", "如何睡好？"), Message("assistant", "早点睡。")),
    "system": (Message("system", "Be brief."), Message("user", "如何？"), Message("assistant", "\n\n 先空行。")),
    "multi-turn": (
        Message("user", "一？"),
        Message("assistant", "一。"),
        Message("user", "二？"),
        Message("assistant", "二。\n"),
        Message("user", "三？"),
        Message("assistant", "三。"),
    ),
    "reasoning": (Message("user", "1+1"), Message("assistant", "<think>\n想一想\n</think>\n\n2")),
}


def trained(sequence):
    return [label for label in sequence.labels if label != IGNORED_LABEL]


def check_contract(chat_format, messages):
    """Every answer's training prefix equals the prompt that inference would feed for it."""
    row = encode_row(Example(messages, "row"), chat_format, max_length=10_000)
    assert not hasattr(row, "reason"), row
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    found = 0
    for sequence in row.sequences:
        ids, labels = list(sequence.input_ids), list(sequence.labels)
        starts = [
            place
            for place, label in enumerate(labels)
            if label != IGNORED_LABEL and (place == 0 or labels[place - 1] == IGNORED_LABEL)
        ]
        for start in starts:
            place = answers[found]
            found += 1
            thinking = "<think>" in messages[place].content
            assert ids[:start] == chat_format.prompt_ids(messages[:place], thinking)
            end = start
            while end < len(labels) and labels[end] != IGNORED_LABEL:
                end += 1
            assert ids[start:end] == labels[start:end]
            assert labels[end - 1] == chat_format.end_of_turn_id
            answer = chat_format.tokenizer.decode(labels[start : end - 1])
            assert messages[place].content.rpartition("</think>")[2].strip() in answer
    assert found == len(answers)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=str)
def test_the_contract_holds_for_every_family(family, conversation):
    check_contract(ChatFormat(family_tokenizer(family)), CONVERSATIONS[conversation])


def template_names():
    return sorted(
        path.name.removesuffix(".jinja")
        for path in (files("trl") / "chat_templates").iterdir()
        if path.name.startswith(("qwen", "llama3", "phi", "gemma", "lfm2", "glm", "cohere"))
        and path.name.endswith(".jinja")
        and "vl" not in path.name
    )


@pytest.mark.every(5)
@pytest.mark.parametrize("name", template_names())
def test_the_contract_holds_for_the_templates_of_other_makers(name):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<bos>"]
    chat_format = ChatFormat(make_tokenizer(real_template(name), special, "<|endoftext|>", begin="<bos>"))
    for conversation in (CONVERSATIONS["single"], CONVERSATIONS["multi-turn"]):
        check_contract(chat_format, conversation)


@pytest.mark.parametrize(
    ("family", "token"), [("qwen3", "<|im_end|>"), ("llama", "<|eot_id|>"), ("gpt2", "<|endoftext|>"), ("opt", "</s>")]
)
def test_the_end_of_turn_token_is_found(family, token):
    tokenizer = family_tokenizer(family)
    assert ChatFormat(tokenizer).end_of_turn_id == tokenizer.convert_tokens_to_ids(token)


def test_rows_without_reasoning_train_in_qwen3_s_non_thinking_mode():
    chat_format = ChatFormat(family_tokenizer("qwen3"))
    [sequence] = encode_row(Example(CONVERSATIONS["single"], "row"), chat_format, 999).sequences
    text = chat_format.tokenizer.decode(list(sequence.input_ids))
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n早点睡。<|im_end|>\n")
    assert chat_format.tokenizer.decode(trained(sequence)) == "早点睡。<|im_end|>"


def test_rows_with_reasoning_train_it_on_qwen3():
    chat_format = ChatFormat(family_tokenizer("qwen3"))
    [sequence] = encode_row(Example(CONVERSATIONS["reasoning"], "row"), chat_format, 999).sequences
    assert chat_format.tokenizer.decode(trained(sequence)) == "<think>\n想一想\n</think>\n\n2<|im_end|>"


def test_earlier_turns_that_qwen3_rewrites_become_sequences_of_their_own():
    chat_format = ChatFormat(family_tokenizer("qwen3"))
    row = encode_row(Example(CONVERSATIONS["multi-turn"], "row"), chat_format, 999)
    answers = [chat_format.tokenizer.decode(trained(sequence)) for sequence in row.sequences]
    assert answers == ["一。<|im_end|>", "二。\n<|im_end|>", "三。<|im_end|>"]


def test_a_template_that_keeps_history_trains_every_turn_in_one_sequence():
    chat_format = ChatFormat(make_tokenizer(CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"))
    [sequence] = encode_row(Example(CONVERSATIONS["multi-turn"], "row"), chat_format, 999).sequences
    assert chat_format.tokenizer.decode(trained(sequence)) == "一。<|im_end|>二。\n<|im_end|>三。<|im_end|>"


@pytest.mark.parametrize("character", ["x", "睡", "🛌"])
def test_a_question_that_no_model_reads_is_refused_before_it_is_encoded(character):
    chat_format = ChatFormat(family_tokenizer("qwen3"))
    with pytest.raises(DataError, match="a question of more than 2,000,000 characters"):
        chat_format.prompt_ids([Message("user", character * 2_000_000)])


def test_llama_s_prompt_begins_with_exactly_one_begin_of_text():
    chat_format = ChatFormat(family_tokenizer("llama"))
    ids = chat_format.prompt_ids([Message("user", "hi")])
    assert ids.count(chat_format.tokenizer.bos_token_id) == 1
    assert ids[0] == chat_format.tokenizer.bos_token_id


def test_the_plain_format_is_the_documented_one():
    gpt2 = ChatFormat(family_tokenizer("gpt2"))
    messages = (Message("system", "S"), Message("user", "Q"), Message("assistant", "A"))
    [sequence] = encode_row(Example(messages, "row"), gpt2, 999).sequences
    text = gpt2.tokenizer.decode(list(sequence.input_ids))
    assert text == "S\n\n### Question:\nQ\n\n### Answer:\nA<|endoftext|>\n\n"
    opt = ChatFormat(family_tokenizer("opt"))
    assert opt.prompt_ids([Message("user", "Q")])[0] == opt.tokenizer.bos_token_id  # OPT begins every text with </s>
    assert gpt2.is_plain
    assert not ChatFormat(family_tokenizer("qwen3")).is_plain


def test_a_template_with_a_clock_writes_the_date_that_it_is_given():
    tokenizer = make_tokenizer(real_template("llama3_2"), ["<|eot_id|>", "<|begin_of_text|>"], "<|eot_id|>")
    first = ChatFormat(tokenizer, date=datetime.date(2026, 2, 3))
    assert "Today Date: 03 Feb 2026" in first.rendering()
    assert first.date == "2026-02-03"
    later = first.dated("2026-02-04")
    assert "04 Feb 2026" in later.rendering()
    assert "04 Feb 2026" in later.tokenizer.decode(later.prompt_ids([Message("user", "q")]))
    assert "03 Feb 2026" in first.rendering()
    assert not first.writes_today
    assert ChatFormat(tokenizer).writes_today
    assert ChatFormat(family_tokenizer("qwen3"), date=datetime.date(2026, 2, 3)).date is None


def test_control_tokens_that_belong_into_answers_are_the_real_ones_there_and_text_in_questions():
    special = ["<|im_start|>", "<|im_end|>", "<|box_start|>", "<|box_end|>"]
    chat_format = ChatFormat(make_tokenizer(CHATML, special, "<|im_end|>"), allowed=special[2:])
    text = "<|box_start|>(1,2)<|box_end|>"
    [sequence] = encode_row(
        Example((Message("user", text), Message("assistant", text)), "row"), chat_format, 999
    ).sequences
    start = chat_format.tokenizer.convert_tokens_to_ids("<|box_start|>")
    assert trained(sequence).count(start) == list(sequence.input_ids).count(start) == 1
    assert chat_format.tokenizer.decode(trained(sequence)) == text + "<|im_end|>"
    assert start not in chat_format.hidden_ids
    check_contract(chat_format, (Message("user", text), Message("assistant", text)))


@pytest.mark.parametrize(
    ("token", "fault"),
    [("<|im_end|>", "ends answers"), ("<|box_strat|>", r"no control token.*\n.*did you mean <\|box_start\|>")],
)
def test_what_cannot_be_allowed_is_refused(token, fault):
    with pytest.raises(SettingsError) as refusal:
        ChatFormat(
            make_tokenizer(CHATML, ["<|im_start|>", "<|im_end|>", "<|box_start|>"], "<|im_end|>"), allowed=[token]
        )
    assert re.search(fault, str(refusal.value))


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = family_tokenizer("gpt2")
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        ChatFormat(tokenizer)


def test_a_template_beyond_its_limits_is_named_with_its_model():
    tokenizer = make_tokenizer("{{ 9 ** 9 }}" + CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>")
    tokenizer.name_or_path = "path/to/model"
    with pytest.raises(ModelError, match="path/to/model: the chat template computes a power"):
        ChatFormat(tokenizer)


def test_a_template_that_loses_answers_is_refused():
    losing = CHATML.replace("message.content", "(message.content if message.role == 'user' else '')")
    with pytest.raises(ModelError, match="loses the text of answers"):
        ChatFormat(make_tokenizer(losing, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"))


def test_a_template_that_raises_refuses_its_conversation_only():
    raising = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    chat_format = ChatFormat(make_tokenizer(raising, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"))
    with pytest.raises(TemplateError, match="no system"):
        list(chat_format.turns(CONVERSATIONS["system"]))
    assert "no system" in encode_row(Example(CONVERSATIONS["system"], "row"), chat_format, 999).reason
    check_contract(chat_format, CONVERSATIONS["single"])


@pytest.mark.parametrize("day", ["2024-99-99", "\x1b]0;x\x07", "yesterday", ""])
def test_a_record_s_day_that_is_none_is_refused(day):
    with pytest.raises(SettingsError, match="is no date") as fault:
        ChatFormat(family_tokenizer("qwen3")).dated(day)
    assert "\x1b" not in str(fault.value)


def test_a_template_that_loses_one_of_two_questions_in_a_row_is_refused():
    """Such as one that looks for the question right before an answer, and writes nothing else."""
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' or loop.last or messages[loop.index].role == 'assistant' %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = make_tokenizer(template, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>")
    chat_format, answer = ChatFormat(tokenizer), Message("assistant", "a")
    assert len(list(chat_format.turns([Message("user", "one"), answer]))) == 1
    with pytest.raises(TemplateError, match="loses a turn where two of one role stand side by side"):
        list(chat_format.turns([Message("user", "one"), Message("user", "two"), answer]))
