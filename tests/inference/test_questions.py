"""What stands in a question of a file is shown to the model, or named."""

import pytest

from lorakit.data_processing import Message
from lorakit.data_processing.example import Rejected, UnusableError
from lorakit.data_processing.ledger import Ledger
from lorakit.data_processing.raw import RawRow
from lorakit.data_processing.shapes.formats import RowRules, read_conversation
from lorakit.inference.questions import _question

TURNS = [{"role": "user", "content": "Who?"}]


PLAIN = RowRules()


def asked(row, ledger=None, rules=PLAIN):
    return _question(RawRow(row, "q.jsonl line 1"), rules, ledger or Ledger()).asked


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who?", "context": "It was Bob."},
        {"question": "Who?", "options": ["Bob", "Ann"]},
        {"text": "Who?", "sytem": "Be brief."},
        {"prompt": "Who?", "audio": "a.wav"},
        {"messages": TURNS, "passage": "It was Bob."},
        {"problem": "Who?", "knowledge": "It was Bob."},
    ],
)
def test_a_question_of_which_the_model_would_not_see_a_part_is_not_asked(row):
    outcome = asked(row)
    assert isinstance(outcome, Rejected)
    assert f'"{list(row)[-1]}" (1 row) is not used' in outcome.reason


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who?", "answer": "Bob", "label": 3, "reasoning": "Because."},
        {"text": "Who?", "target": "Bob", "response": "Ann", "id": 1},
        {"问题": "Who?", "答案": "Bob"},
        {"problem": "Who?", "solution": "Bob"},
        {"messages": [*TURNS, {"role": "assistant", "content": "Bob", "weight": 0}]},
    ],
)
def test_what_tells_of_the_answer_does_not_matter_to_a_question(row):
    assert asked(row) == (Message("user", "Who?"),)


def test_what_is_set_to_be_shown_is_shown_and_what_is_unknown_is_named():
    rules = RowRules(map_fields={"passage": "input"}, ignored=frozenset({"options"}))
    ledger = Ledger(rules.ignored)
    row = {"question": "Who?", "passage": "It was Bob.", "options": ["a"], "remark": "hm"}
    assert asked(row, ledger, rules) == (Message("user", "Who?\nIt was Bob."),)
    assert [fate.place for fate in ledger.fates() if fate.remedy] == ["remark"]


def test_so_it_is_with_a_conversation_in_python():
    assert read_conversation([{**TURNS[0], "name": "Ann", "id": 3}]) == [Message("user", "Who?", name="Ann")]
    with pytest.raises(UnusableError, match="which the model would not be shown"):
        read_conversation([{**TURNS[0], "context": "It was Bob."}])
