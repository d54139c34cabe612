"""The field of an answer, as SQuAD and its kin have it."""

import pytest

from lorakit.data_processing.example import Rejected
from lorakit.data_processing.ledger import Ledger
from lorakit.data_processing.raw import RawRow
from lorakit.data_processing.shapes.formats import RowRules, to_example


def read(value, name="answers", **rules):
    ledger = Ledger()
    example = to_example(RawRow({"question": "How far?", name: value}, "row"), RowRules(**rules), ledger)
    return example, {fate.place: fate.fate for fate in ledger.fates()}


@pytest.mark.parametrize(
    "value",
    [
        {"text": ["nine miles"], "answer_start": [13]},
        {"text": "nine miles", "answer_start": 13},
        str({"text": ["nine miles"], "answer_start": [13]}),
        ["nine miles"],
        ["nine miles", "nine miles"],
        [{"text": "nine miles", "answer_start": 13}, {"text": "nine miles", "answer_start": 20}],
        [{"answer": "nine miles"}],
        {"value": "nine miles"},
        ["", "nine miles"],
    ],
)
@pytest.mark.parametrize("name", ["answers", "answer"])
def test_one_answer_in_any_wrapping_is_the_answer(value, name):
    example, fates = read(value, name)
    assert example.messages[-1].content == "nine miles"
    assert not any("other answers" in place for place in fates)


def test_of_several_answers_to_one_question_the_first_is_trained_and_the_others_are_listed():
    for value in (["a", "b"], {"text": ["a", "b"], "answer_start": [1, 2]}, [{"text": "a"}, {"text": "b"}]):
        example, fates = read(value)
        assert example.messages[-1].content == "a"
        assert fates["(other answers in answers)"] == "left out: the first one is trained"


def test_a_list_that_may_be_the_parts_of_an_answer_is_refused_until_it_is_said_what_it_is():
    example, _ = read(["a", "b"], "answer")
    assert isinstance(example, Rejected)
    assert "is a list of 2 texts" in example.reason
    assert read(["a", "b"], "answer", target="answer")[0].messages[-1].content == "a"


def test_what_stands_beside_the_text_of_an_answer_is_accounted_for():
    _, fates = read([{"text": "a", "remark": "x", "answer_start": 3}])
    assert fates["answers[].remark"] == "not used"
    assert fates["answers[].answer_start"].startswith("left out")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"text": [], "answer_start": []}, '"answers" holds no answer'),
        ([{"name": "f", "arguments": {}}], '"answers" holds calls of tools, and the row has no tools'),
        ([True], '"answers" is not text (found: bool)'),
    ],
)
def test_what_is_no_answer_is_named(value, reason):
    assert read(value)[0].reason.startswith(reason)


def test_a_list_that_is_written_as_text_is_text():
    assert read('["a", "b"]', "answer")[0].messages[-1].content == '["a", "b"]'
