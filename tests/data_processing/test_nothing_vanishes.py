"""Rows put together at random: each of their texts is in the conversation, or its field is named."""

import json
import random
import re

import pytest

from lorakit.data_processing.example import Rejected
from lorakit.data_processing.field_names import _HARMLESS, _MEANT
from lorakit.data_processing.ledger import Ledger
from lorakit.data_processing.raw import RawRow
from lorakit.data_processing.shapes.formats import RowRules, to_example

TEXT = re.compile(r"text\d{6}x")
PAIRS = [
    *(("question", "answer"), ("text", "target"), ("instruction", "output"), ("prompt", "completion")),
    *(("query", "response"), ("problem", "solution"), ("input", "output"), ("question", "answers")),
]
TURNS = ["messages", "conversations", "dialogue", "data", "items", "texts", "turns", "prompt", "chat", "text"]
ROLES = ["user", "assistant", "system", "tool", "human", "gpt", "function_call", "observation", "bing"]
OF_TURNS = ["name", "weight", "reasoning_content", "tool_calls", "function_call", "refusal", "tool_call_id", "zebra"]
OF_TURNS += ["context", "loss", "metadata", "audio", "images", "content", "value", "text"]
INNER = ["text", "value", "content", "parts", "path", "bytes", "name", "arguments", "answer", "role", "type", "zebra"]
# What became of a field whose text is not in the conversation.
NAMED = ("left out", "not used", "says what", "whether", "kind of part", "call's", "who speaks", "marks")
NOTED = ("(turns after", "(other answers", "(other replies")


class Rows:
    """Makes rows at random."""

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.texts = 0
        self.names = [*sorted({*_MEANT, *_HARMLESS}), "zebra", "extra info", "Data", *TURNS]

    def text(self):
        self.texts += 1
        return f"text{self.texts:06d}x"

    def one_of(self, *made):
        return self.draw.choice(made)()

    def value(self, depth=0):
        if self.draw.random() < 0.6 or depth > 2:
            return self.text()
        return self.one_of(
            lambda: None,
            lambda: [self.text() for _ in range(self.draw.randint(1, 2))],
            lambda: {self.draw.choice(INNER): self.value(depth + 1) for _ in range(2)},
            lambda: [{self.draw.choice(INNER): self.value(depth + 1) for _ in range(2)}],
            self.turns,
            lambda: json.dumps(self.value(depth + 1)),
            lambda: str(self.value(depth + 1)),
            lambda: f" {self.text()} <think>{self.text()}</think>{self.text()}",
            lambda: f"Human: {self.text()}\n\nAssistant: {self.text()}",
        )

    def part(self):
        text = self.text
        return self.one_of(
            lambda: {"type": "text", "text": text()},
            text,
            lambda: {"type": "thinking", "thinking": text(), "text": text(), "signature": text()},
            lambda: {"type": "tool_use", "id": text(), "name": text(), "input": {"a": text()}},
            lambda: {"type": "tool_result", "tool_use_id": text(), "content": self.value(2)},
            lambda: {"type": "text", "text": text(), self.draw.choice(["citations", "zebra"]): self.value(2)},
            lambda: {"text": text(), "thought": True},
            lambda: {"type": "refusal", "refusal": text()},
            lambda: {"type": self.value(1), "text": text()},
            lambda: {"type": "image", "image": f"{text()}.png", "path": text()},
        )

    def turn(self, role):
        speaker, said = self.draw.choice(
            [("role", "content"), ("from", "value"), ("Role", "Content"), ("role", "parts")]
        )
        is_text = self.draw.random() < 0.6
        turn = {speaker: role, said: self.text() if is_text else [self.part() for _ in range(self.draw.randint(1, 3))]}
        if self.draw.random() < 0.25:
            turn[self.draw.choice(OF_TURNS)] = self.value(1)
        if self.draw.random() < 0.1:
            function = {"name": self.text(), "arguments": {"a": self.text()}, "zebra": self.text()}
            turn["tool_calls"] = [{"id": self.text(), "type": "function", "function": function, "extra": self.text()}]
        return turn

    def turns(self):
        count = self.draw.randint(1, 3)
        in_order = [turn for _ in range(count) for turn in (self.turn("user"), self.turn("assistant"))]
        return self.one_of(
            lambda: in_order,
            lambda: [self.turn("system"), *in_order],
            lambda: [*in_order, self.turn("user")],
            lambda: [self.turn(self.draw.choice(ROLES)) for _ in range(2 * count)],
            lambda: [{"human": self.text(), "assistant": self.text(), "zebra": self.text()} for _ in range(count)],
            lambda: [self.text() for _ in range(2 * count)],
        )

    def row(self):
        if self.draw.random() < 0.5:
            question, answer = self.draw.choice(PAIRS)
            row = {question: self.value(2), answer: self.value()}
        else:
            row = {self.draw.choice(TURNS): self.turns()}
        for _ in range(self.draw.randint(0, 3)):
            name = self.draw.choice(self.names)
            row.setdefault(self.draw.choice([name, name.title()]), self.value())
        items = list(row.items())
        self.draw.shuffle(items)
        return dict(items)


def texts_of(value, place=()):
    """Every text of a row, with the names of the fields that it lies in."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from texts_of(inner, (*place, name))
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner, place)
    elif isinstance(value, str):
        yield from ((text, place) for text in TEXT.findall(value))


def lost(row, takes_pictures):
    """The texts of a row that are neither in its conversation nor in fields that are named."""
    ledger = Ledger()
    example = to_example(RawRow(row, "row"), RowRules(takes_pictures=takes_pictures), ledger)
    if isinstance(example, Rejected):
        return None
    said = str(example.messages)
    places = {fate.place.replace("[]", "") for fate in ledger.fates() if fate.fate.startswith(NAMED)}
    if any(fate.place.startswith(NOTED) for fate in ledger.fates()):
        return []
    found = []
    for text, names in texts_of(row):
        above = [".".join(names[:count]) for count in range(1, len(names) + 1)]
        is_named = any(place in places for place in above) or any(place.startswith(f"{above[-1]}.") for place in places)
        if text not in said and not is_named:
            found.append((text, above[-1]))
    return found


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))])
def test_no_text_of_a_row_vanishes(seed):
    rows, used = Rows(seed), 0
    for number in range(1500):
        row = rows.row()
        found = lost(row, takes_pictures=(None, False)[number % 2])
        used += found is not None
        assert not found, (found, row)
    assert used > 300


@pytest.mark.parametrize(
    ("role", "part", "what"),
    [
        ("user", {"type": "tool_use", "id": "1", "name": "f", "input": {}}, "a call"),
        ("user", {"type": "thinking", "thinking": "hm"}, "reasoning"),
        ("system", {"text": "hm", "thought": True}, "reasoning"),
        ("assistant", {"type": "tool_result", "tool_use_id": "1", "content": "21"}, "the result of a call"),
        ("function_call", {"type": "thinking", "thinking": "hm"}, "reasoning"),
        ("function_call", {"type": "image", "image": "a.png"}, "a picture"),
    ],
)
def test_a_part_in_a_turn_that_has_no_place_for_it_is_refused(role, part, what):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    turns.insert(0, {"role": role, "content": [{"type": "text", "text": "x"}, part]})
    outcome = to_example(RawRow({"messages": turns}, "row"))
    assert f'is of "{role}" and holds {what}' in outcome.reason


def test_what_stands_beside_a_picture_in_its_object_is_accounted_for():
    ledger = Ledger()
    picture = {"path": "a.png", "caption": "a cat"}
    row = {"question": "q", "answer": "a", "image": picture, "system": [{"text": "s", "remark": "r"}]}
    to_example(RawRow(row, "row"), RowRules(takes_pictures=None), ledger)
    assert {"image[].caption", "system[].remark"} <= {fate.place for fate in ledger.fates() if fate.remedy}


@pytest.mark.parametrize("odd", [["x"], {"a": 1}, 3, True, 0.5])
def test_a_kind_that_is_no_text_is_refused_and_no_error_of_the_program(odd):
    part = {
        "messages": [{"role": "user", "content": [{"type": odd, "text": "q"}]}, {"role": "assistant", "content": "a"}]
    }
    call = {"query": "q", "tools": [{"name": "f", "parameters": {}}], "answers": [{"type": odd, "name": "f"}]}
    role = {"messages": [{"role": odd, "content": "q"}, {"role": "assistant", "content": "a"}]}
    picture = {"question": "q", "answer": "a", "image": {"type": odd, "data": odd}}
    for row in (part, call, role, picture):
        assert isinstance(to_example(RawRow(row, "row")), Rejected)
