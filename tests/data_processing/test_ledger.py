"""Whatever stands in a file is used, or named before training starts."""

import pytest
from conftest import examples, family_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.config import Config
from lorakit.data_processing import ChatFormat, load_dataset
from lorakit.data_processing.example import Example
from lorakit.data_processing.field_names import judged
from lorakit.data_processing.files.opening import RawRow
from lorakit.data_processing.ledger import Ledger, field_lines
from lorakit.data_processing.overview import field_table, names_without_rows, warnings
from lorakit.data_processing.shapes.formats import RowRules, to_example
from lorakit.errors import DataError

CHAT_FORMAT = ChatFormat(family_tokenizer("qwen3"))
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAPES = {
    "pair": {"text": "q", "target": "a"},
    "prompt": {"prompt": "q", "completion": "a"},
    "alpaca": {"instruction": "q", "input": "x", "output": "a"},
    "dolly": {"instruction": "q", "context": "x", "response": "a"},
    "openai": {"messages": TURNS},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
}


def fates(fields, **rules):
    """What became of each field of a row that is used."""
    ledger = Ledger(frozenset(rules.get("ignored", ())))
    example = to_example(RawRow(fields, "here"), RowRules(**rules), ledger)
    assert isinstance(example, Example), example
    return {fate.place: fate for fate in ledger.fates()}


READ = {
    "system": ("system", {**SHAPES["pair"], "system": "s"}, SHAPES["pair"]),
    "history": ("history", {**SHAPES["prompt"], "history": [["x", "y"]]}, SHAPES["prompt"]),
    "input": ("input", {"instruction": "q", "input": "x", "output": "a"}, {"instruction": "q", "output": "a"}),
    "tools": ("tools", {**SHAPES["openai"], "tools": "no list"}, SHAPES["openai"]),
    "image": ("image", {**SHAPES["pair"], "image": "a.png"}, SHAPES["pair"]),
    "messages": ("messages", {**SHAPES["pair"], "messages": "x"}, SHAPES["pair"]),
    "messages[].weight": (
        "weight",
        {"messages": [TURNS[0], {**TURNS[1], "weight": 0}, *TURNS]},
        {"messages": [*TURNS, *TURNS]},
    ),
}


@pytest.mark.parametrize("place", READ)
def test_a_field_that_is_ignored_is_not_read_either(place):
    name, row, without = READ[place]
    found = fates(row, ignored=frozenset({place}))
    assert found[place].fate == "left out, as ignore_fields says"
    read, expected = (to_example(RawRow(one, "here"), RowRules(ignored=frozenset({place}))) for one in (row, without))
    assert read == expected
    assert name in place


def test_a_name_that_yaml_would_read_otherwise_is_shown_in_quotes(write_rows):
    ledger = Ledger()
    to_example(RawRow({"text": "q", "target": "a", "nr, alt": "1", "我的 列": "x"}, "here"), RowRules(), ledger)
    lines = field_lines(ledger.fates())
    assert any('ignore_fields: ["nr, alt"]' in line for line in lines)
    assert any("ignore_fields: [我的 列]" in line for line in lines)


def test_speakers_marks_that_are_left_as_text_are_listed():
    row = {"instruction": "Human: How far?\nAssistant: Nine miles.\nHuman: And back?", "output": "As far again."}
    assert fates(row)["(speakers' marks in the question)"].fate.startswith("text")
    assert list(fates({**row, "instruction": "What does Human: mean?"})) == ["instruction", "output"]


COPIES = [
    ("prompt", "How far is it to the bridge?", True),  # the question
    ("text", "Nine miles.", True),  # the answer, under a name that answers have
    ("context", "Nine miles.", False),  # what an answer says was not asked
    ("passage", "far is it to the bridge", True),  # part of the question
    ("hint", "far", False),  # too short to be more than a coincidence
    ("context", "The road has nine milestones.", False),
]


@pytest.mark.parametrize(("name", "value", "is_copy"), COPIES)
def test_a_field_that_says_what_the_conversation_says_stops_nothing(name, value, is_copy):
    turns = [
        {"role": "user", "content": "How far is it to the bridge?"},
        {"role": "assistant", "content": "Nine miles."},
    ]
    fate = fates({"messages": turns, name: value})[name]
    assert fate.is_meant is not is_copy
    assert (fate.fate == "says what the conversation says") is is_copy


@pytest.mark.every(2)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "name",
    [
        "passage",
        "label",
        "weight",
        "chosen",
        "video",
        "audio_url",
        "sytem",
        "contxt",
        "choices",
        "Background",
        "rationale",
    ],
)
def test_a_field_that_carries_meaning_and_is_not_used_stops_with_the_remedy(write_rows, shape, name):
    file = write_rows([{**SHAPES[shape], name: "y"}, SHAPES[shape]])
    with pytest.raises(DataError) as caught:
        load_dataset(file, Config(), CHAT_FORMAT)
    assert f'"{name}" (1 row)' in caught.value.message
    assert f"ignore_fields: [{name}]" in caught.value.message
    assert len(load_dataset(file, Config(ignore_fields=[name]), CHAT_FORMAT).examples) == 2


def test_a_passage_can_be_put_after_the_question(write_rows):
    rows = [{"question": "Who?", "passage": "Ann did.", "answer": "Ann"}]
    loaded = load_dataset(write_rows(rows), Config(map_fields={"passage": "input"}), CHAT_FORMAT)
    assert loaded.examples[0].messages[0].content == "Who?\nAnn did."
    assert ["passage", "1", "part of the question, after it"] in field_table(loaded)


@pytest.mark.parametrize("shape", ["pair", "prompt", "alpaca"])
def test_system_history_and_reasoning_are_read_beside_every_question(shape):
    beside = {"System Prompt": "s", "history": [["q1", "a1"]], "thinking": "hm"}
    found = to_example(RawRow({**SHAPES[shape], **beside}, "here"))
    assert [message.content for message in found.messages] == ["s", "q1", "a1", found.messages[3].content, "a"]
    assert found.messages[-1].reasoning == "hm"


def test_known_harmless_fields_are_listed_and_not_warned_of():
    found = fates({**SHAPES["pair"], "id": 7, "source": "web", "Category": "x", "answer_id": 3})
    assert {place for place, fate in found.items() if fate.fate.startswith("left out")} == {
        "id", "source", "Category", "answer_id"
    }  # fmt: skip
    assert field_lines(tuple(found.values())) == []


def test_an_unknown_field_is_named_with_its_rows_and_the_row_is_trained(write_rows):
    loaded = load_dataset(write_rows([{**SHAPES["pair"], "zebra": 1}, SHAPES["alpaca"]]), Config(), CHAT_FORMAT)
    [line] = warnings(loaded)
    assert line.endswith('"zebra" (1 row) is not used; ignore_fields: [zebra] leaves it out')


def test_what_says_nothing_is_not_missed():
    empty = {"system": "", "history": None, "tools": [], "images": None, "image": [], "context": "  ", "weight": None}
    assert set(fates({**SHAPES["pair"], **empty})) == {"text", "target"}


def test_keys_of_turns_and_parts_are_accounted_for():
    part = {"type": "text", "text": "q", "zebra": 1}
    turns = [{"role": "user", "content": [part], "mood": "x"}, {"role": "assistant", "content": "a", "context": "y"}]
    found = fates({"messages": turns})
    assert found["messages[].content[].zebra"].fate == found["messages[].mood"].fate == "not used"
    assert found["messages[].context"].is_meant
    assert found["messages[].role"].fate == "who speaks"
    assert not fates({"messages": turns}, ignored=frozenset(["messages[].context"]))["messages[].context"].is_meant


def test_turns_that_no_answer_follows_and_a_preamble_of_tools_are_entered_too():
    more = {"role": "user", "content": "more"}
    assert "(turns after the last trained answer)" in fates({"messages": [*TURNS, more]})
    assert "(turns after the last trained answer)" in fates({"messages": [*TURNS, more, {**TURNS[1], "weight": 0}]})
    assert set(fates({"messages": TURNS})) == {"messages", "messages[].role", "messages[].content"}
    system = {"role": "system", "content": 'Call. <tools>[{"name": "f"}]</tools>'}
    assert "(system message that lists the tools)" in fates({"messages": [system, *TURNS]})


def test_a_setting_about_a_field_that_no_row_has_is_named(write_rows):
    config = Config(map_fields={"passage": "input", "pasage": "input"}, ignore_fields=["zebra", "mood", "messages[].x"])
    rows = [{**SHAPES["pair"], "passage": "y", "zebra": 1}, {"messages": [{**TURNS[0], "mood": 1}, TURNS[1]]}]
    loaded = load_dataset(write_rows(rows), config, CHAT_FORMAT)
    assert names_without_rows(config, [loaded]) == [
        'map_fields: no row that is used has a field "pasage"',
        'ignore_fields: no row that is used has a field "messages[].x"',
    ]


def test_a_field_under_two_names_is_lost_unless_both_say_the_same():
    assert fates({**SHAPES["pair"], "system": "s", "system_prompt": "t"})["system_prompt"].is_meant
    assert "system_prompt" not in fates({**SHAPES["pair"], "system": "s", "system_prompt": "s"})


def test_the_user_s_names_win_over_those_that_are_known():
    for fields in ({"frage": "q", "antwort": "a", "text": "else"}, {"text": "else", "antwort": "a", "frage": "q"}):
        found = fates(fields, text="frage", target="antwort")
        assert found["text"].is_meant
        assert found["frage"].fate == "question"


def test_one_question_with_two_answers_and_rows_of_the_training_are_warned_of(write_rows):
    rows = [{"text": "q", "target": "a"}, {"text": "q", "target": "b"}]
    train = load_dataset(write_rows(rows), Config(), CHAT_FORMAT)
    held_out = load_dataset(write_rows(rows[:1], "other.json"), Config(), CHAT_FORMAT)
    assert train.contradictions == (f"{train.name} item 2, otherwise in {train.name} item 1",)
    assert any("the same question has different answers" in line for line in warnings(train))
    assert any(f"stands in {train.name} too" in line for line in warnings(held_out, train))


@pytest.mark.generated
@settings(derandomize=True, deadline=None, max_examples=examples(300))
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    name=st.text(min_size=1, max_size=12),
    value=st.one_of(st.text(min_size=1), st.integers(), st.lists(st.integers(), min_size=1), st.just({"a": 1})),
)
def test_a_row_with_one_more_field_is_trained_the_same_and_the_field_is_named_or_it_is_refused(shape, name, value):
    fields = SHAPES[shape]
    ledger = Ledger()
    plain = to_example(RawRow(fields, "here"))
    found = to_example(RawRow({name: value, **fields}, "here"), RowRules(), ledger)
    if isinstance(found, Example) and name not in fields and not (isinstance(value, str) and not value.strip()):
        [fate] = [fate for fate in ledger.fates() if fate.rows and name.split()[:1] == fate.place.split()[:1]]
        is_used = judged(name, frozenset()).fate == "meant" and not fate.is_meant
        assert is_used or found.messages == plain.messages


PARTS = [{"role": "user", "content": [{"type": "text", "text": "q"}]}, TURNS[1]]


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    place=st.sampled_from(["user", "assistant", "part"]),
    name=st.text(min_size=1, max_size=12),
    value=st.one_of(st.text(min_size=1), st.integers(), st.just({"a": 1})),
)
def test_the_same_of_one_more_key_in_a_turn_or_a_part(place, name, value):
    user, assistant = PARTS
    if place == "part":
        user = {**user, "content": [{name: value, **user["content"][0]}]}
    elif place == "user":
        user = {name: value, **user}
    else:
        assistant = {name: value, **assistant}
    ledger = Ledger()
    found = to_example(RawRow({"messages": [user, assistant]}, "here"), RowRules(), ledger)
    is_new = name not in {"role", "content", "type", "text"} and not (isinstance(value, str) and not value.strip())
    if isinstance(found, Example) and is_new:
        beside = {"messages", "messages[].role", "messages[].content", "messages[].content[].type"}
        named = [fate for fate in ledger.fates() if fate.place not in {*beside, "messages[].content[].text"}]
        is_read = any(not fate.fate.startswith(("not used", "left out")) for fate in named)
        assert len(named) == 1
        assert is_read or found.messages == to_example(RawRow({"messages": PARTS}, "here")).messages


@pytest.mark.parametrize("name", ["loss_weight", "ignore", "skip", "exclude", "learn", "train_on", "mask"])
def test_a_switch_of_another_name_stops_the_run(name):
    ledger = Ledger()
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", name: 1}]
    to_example(RawRow({"messages": turns}, "row"), ledger=ledger)
    assert [fate.place for fate in ledger.fates() if fate.is_meant] == [f"messages[].{name}"]


@pytest.mark.parametrize("names", [("User", "Assistant"), ("用户", "助手"), ("提问", "回答"), ("HUMAN", "Bot")])
def test_speakers_are_found_in_any_spelling(names):
    example = to_example(RawRow(dict(zip(names, ("q", "a"), strict=True)), "row"))
    assert [message.content for message in example.messages] == ["q", "a"]
