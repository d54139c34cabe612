import math

import pytest

from lorakit.data_processing.example import Example, Message, Rejected
from lorakit.data_processing.files.opening import RawRow
from lorakit.data_processing.ledger import Ledger
from lorakit.data_processing.shapes.formats import RowRules, to_example


def read(fields, **rules):
    return to_example(RawRow(fields, "here"), RowRules(**rules))


def turns(*pairs):
    return tuple(Message(role, content) for role, content in pairs)


QUESTION_ANSWER = turns(("user", "q"), ("assistant", "a"))


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "q", "target": "a"},
        {"prompt": "q", "completion": "a"},
        {"question": "q", "answer": "a"},
        {"query": "q", "response": "a"},
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"from": "gpt", "value": "a"}]},
    ],
    ids="+".join,
)
def test_every_shape_becomes_the_same_conversation(fields):
    assert read(fields) == Example(QUESTION_ANSWER, "here")


def test_alpaca_s_input_follows_the_instruction():
    assert read({"instruction": "q", "input": "x", "output": "a"}).messages[0].content == "q\nx"


def test_alpaca_s_system_and_history_come_first():
    fields = {"system": "s", "history": [["q1", "a1"]], "instruction": "q2", "output": "a2"}
    assert read(fields).messages == turns(
        ("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")
    )


def test_fields_can_be_named():
    assert read({"frage": "q", "antwort": "a"}, text="frage", target="antwort").messages == QUESTION_ANSWER


def test_what_stands_after_the_last_answer_is_left_out():
    conversation = [{"role": r, "content": c} for r, c in [("user", "q"), ("assistant", "a"), ("user", "more")]]
    assert read({"messages": conversation}).messages == QUESTION_ANSWER


def chat_of(*roles):
    return {"messages": [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]}


def test_an_answer_before_the_first_question_stays_and_carries_no_loss():
    found = read(chat_of("system", "assistant", "user", "assistant"))
    assert [(message.content, message.is_trained) for message in found.messages] == [
        ("system 0", None),
        ("assistant 1", False),
        ("user 2", None),
        ("assistant 3", None),
    ]
    ledger = Ledger()
    to_example(RawRow(chat_of("assistant", "user", "assistant"), "here"), ledger=ledger)
    assert "(answer before the first question)" in {fate.place for fate in ledger.fates()}


def test_turns_of_one_role_stay_apart():
    found = read(chat_of("user", "user", "assistant", "assistant", "user", "assistant"))
    assert [message.role for message in found.messages] == [
        "user",
        "user",
        "assistant",
        "assistant",
        "user",
        "assistant",
    ]
    assert all(message.is_trained is None for message in found.messages)


def test_the_system_prompt_goes_to_rows_without_one():
    assert read({"text": "q", "target": "a"}, system_prompt="s").messages[0] == Message("system", "s")
    own = {"system": "own", "instruction": "q", "output": "a"}
    assert read(own, system_prompt="s").messages[0] == Message("system", "own")


def test_reasoning_of_its_own_field_is_kept():
    conversation = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "reasoning_content": "hm"},
    ]
    assert read({"messages": conversation}).messages[1] == Message("assistant", "a", reasoning="hm")


def test_numbers_are_text():
    assert read({"text": "1+1", "target": 2}).messages[1].content == "2"


def chat(*pairs):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": "q", "label": "a"}, '"target" is missing (found: text, label)'),
        ({"target": "a"}, '"text" is missing'),
        ({"foo": 1}, '"text" and "target" are missing (found: foo)'),
        ({}, "found: nothing"),
        ("a string", "is not an object with fields (found: str)"),
        (None, "is not an object"),
        ({"text": "q", "target": ""}, '"target" is empty'),
        ({"text": "q", "target": " \n"}, '"target" is empty'),
        ({"text": "q", "target": None}, '"target" is not text (found: null)'),
        ({"text": "q", "target": ["a", "b"]}, '"target" is a list of 2 texts'),
        ({"text": "q", "target": [["a"]]}, '"target" is not text (found: list)'),
        ({"text": "q", "target": True}, '"target" is not text (found: bool)'),
        ({"text": "q", "target": math.nan}, '"target" is not text (found: nan)'),
        ({"text": "q", "target": "half \ud800"}, "half a character"),
        ({"messages": "q"}, '"messages" is not a list of turns'),
        ({"messages": ["q"]}, "turn 1 is not an object"),
        ({"messages": []}, "has no answer"),
        (chat(("user", "q")), "has no answer"),
        (chat(("assistant", "a")), "begins with an answer"),
        (chat(("user", "q"), ("tool", "x"), ("assistant", "a")), "right after one of the role user"),
        (chat(("user", "q"), ("system", "s"), ("assistant", "a")), "system message that is not the first"),
        (chat(("user", [{"type": "audio"}]), ("assistant", "a")), "a part that is neither text nor a picture"),
        (chat(("user", [{"type": "image_url"}]), ("assistant", "a")), "a place for a picture that names none"),
        ({"instruction": "q", "output": "a", "history": ["x"]}, '"history" is not a list'),
        (
            {"chat": {"turn_1": {"Human": "q", "Commands": "Search(x)", "MOSS": "a"}}},
            "calls a plugin of MOSS (Search(x))",
        ),
        ({"prompt": {"role": "reader", "text": "q", "replies": []}}, "neither prompter nor assistant"),
    ],
)
def test_an_unusable_row_says_why(fields, reason):
    rejected = read(fields)
    assert isinstance(rejected, Rejected)
    assert rejected.origin == "here"
    assert reason in rejected.reason


def test_preferences_are_refused_with_a_clear_word_and_the_preferred_answers_can_be_trained():
    turns_asked = [{"from": "human", "value": "q"}]
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": "b",
        },
        {
            "conversations": turns_asked,
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
    ]
    for row in rows:
        refused = read(row)
        assert 'holds preferences ("chosen" and "rejected")' in refused.reason
        assert "map_fields: {chosen: target}" in refused.hint
        taken = read(row, map_fields={"chosen": "target"}, ignored=frozenset(["rejected"]))
        assert taken.messages == QUESTION_ANSWER
    openai = {"input": {"messages": []}, "preferred_output": [1], "non_preferred_output": [1]}
    assert "which are for DPO" in read(openai).reason


A_TURN = {"role": "user", "content": "q"}
REMEDIES = [
    ({"question": "Is it?", "answer": True}, 'such as "yes" or "no"'),
    ({"dialogue": "A: hi", "summary": "They greet."}, "text_field: dialogue"),
    ({"chat": {"turn_1": {"Human": "q", "Commands": '<|Commands|>: Search("x")<eoc>', "MOSS": "a"}}}, '"tool_calls"'),
    ({"message_id": "a", "parent_id": None, "role": "prompter", "text": "q"}, "each path"),
    ({"text": "<|im_start|>user\nq<|im_end|>"}, "lorakit writes the template itself"),
    ({"question": "q", "guess": "s", "attempt": "a"}, "target_field: attempt, if that is the answer"),
    ({"ask_me": "q", "answer": "a"}, "text_field: ask_me, if that is the question"),
    ({"xyz": "q", "answer": "a"}, "text_field: NAME"),
    ({"history": "x", "question": "q", "answer": "a"}, 'write it as [["question", "answer"], ...]'),
    (chat_of("user", "system", "assistant"), "put what it says into the first one"),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5}]},
        "(1) or not (0)",
    ),
    (
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        "map_fields: {chosen: chat}",
    ),
    ({"text": ["q", "r"], "target": ["a", "b"]}, "orient='records'"),
    ({"conversations": ["q", 1]}, '{"role": "user"'),
    ({"conversation": [{"sprecher": "A", "satz": "q"}]}, '{"role": "user"'),
    (["q", "a"], "orient='records'"),
    ({"conversation_id": "x", "tree": {"text": "q"}}, "text_field: QUESTION"),
    ({"id": 3, "article": "long", "highlights": "short"}, "text_field: article and target_field: highlights"),
    ({"chosen": [A_TURN], "rejected": [A_TURN]}, "map_fields: {chosen: messages}"),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "map_fields: {chosen: target}"),
    (
        {
            "tools": [{"name": "w"}],
            "messages": [
                A_TURN,
                {"role": "assistant", "content": "w()"},
                {"role": "tool", "content": "1"},
                {"role": "assistant", "content": "1."},
            ],
        },
        "<tool_call>",
    ),
]


@pytest.mark.parametrize(("fields", "remedy"), REMEDIES)
def test_what_cannot_be_read_says_what_to_do(fields, remedy):
    outcome = read(fields)
    assert isinstance(outcome, Rejected)
    assert remedy in outcome.hint
