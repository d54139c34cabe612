"""A row of each of some 160 public data sets, with the fields that they have: used, named, or refused with a remedy."""

import json
import re
from pathlib import Path

import pytest

from lorakit.data_processing.example import Rejected
from lorakit.data_processing.ledger import Ledger
from lorakit.data_processing.raw import RawRow
from lorakit.data_processing.shapes.formats import RowRules, to_example

FILE = Path(__file__).parents[1] / "public_rows.jsonl"
ROWS = {row["set"]: row for row in map(json.loads, FILE.read_text(encoding="utf-8").splitlines())}
MEANING = re.compile(r"map_fields: \{(\S+): (\w+)\}")
LEFT_OUT = re.compile(r"ignore_fields: \[([^\]]+)\]")
NAMED = re.compile(r"(text|target)_field: ([^\s,;:]+)")
# What no setting makes a row of: the remedy is to write other rows.
OTHER_ROWS = (
    "leave the row out",
    "write it as",
    "write turns as",
    "QUESTION",
    "NAME",
    "take the ",
    "name a field that is text",
    "calls stand in",
    "a turn is",
    "begin a line",
    "name another picture",
)


@pytest.fixture
def read(tmp_path):
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n")

    def outcome(row, **rules):
        ledger = Ledger(rules.get("ignored", frozenset()))
        example = to_example(RawRow(row, "row", tmp_path), RowRules(takes_pictures=True, **rules), ledger)
        return example, ledger.fates()

    return outcome


def said(message):
    text = f"{message.role}: {message.content}" + (f" [{message.reasoning}]" if message.reasoning else "")
    return text + "".join(f" {call.name}({call.arguments})" for call in message.tool_calls)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_used_named_or_refused(name, read):
    row = ROWS[name]
    example, fates = read(row["row"])
    if isinstance(example, Rejected):
        assert (example.reason, example.hint) == (row["refused"], row["remedy"])
        return
    lost = [fate.place for fate in fates if fate.is_meant]
    if lost:
        assert lost == row["lost"]
    else:
        assert " / ".join(said(message) for message in example.messages if message.role != "tools") == row["used"]
    assert [fate.place for fate in fates if fate.remedy and not fate.is_meant] == row["named"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "used" not in row])
def test_remedies_that_are_pasted_make_a_row_of_it_or_lead_to_one_that_asks_for_other_rows(name, read):
    rules = {"map_fields": {}, "ignored": frozenset()}
    for _ in range(6):
        example, fates = read(ROWS[name]["row"], **rules)
        remedies = [example.hint] if isinstance(example, Rejected) else [f.remedy for f in fates if f.is_meant]
        if not remedies:
            return
        if isinstance(example, Rejected) and any(words in example.hint for words in OTHER_ROWS):
            return
        assert paste(remedies, rules), remedies
    pytest.fail(f"still refused: {remedies}")


def paste(remedies, rules):
    """Set what the remedies say: what a field means where it has not been said yet, else that it is left out."""
    before = str(rules)
    for remedy in remedies:
        for which, field in NAMED.findall(remedy):
            if which == "target" and "beside a question" in remedy and rules.get("target"):
                continue
            rules.setdefault(which, field)
        meaning = MEANING.search(remedy)
        if meaning and meaning[2] not in rules["map_fields"].values() and meaning[1] not in rules["map_fields"]:
            rules["map_fields"][meaning[1]] = meaning[2]
            if meaning[2] == "target":  # preferences: both together
                rules["ignored"] |= set(LEFT_OUT.findall(remedy))
        elif (left_out := LEFT_OUT.search(remedy)) and left_out[1] not in (rules.get("text"), rules.get("target")):
            rules["ignored"] |= {left_out[1]}
    return str(rules) != before
