"""The rows of the advisor's measurement: short ones of files in two forms."""

import json
import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from advice import rows_of


def test_a_row_is_the_last_question_with_the_first_sentence_of_its_answer(tmp_path):
    file = tmp_path / "rows.json"
    rows = [
        {"instruction": "Name it.", "input": "a cat", "output": "It is 3.5 kg. It sleeps."},
        {"instruction": "说说猫。", "input": "", "output": "猫会睡觉。它也吃鱼。"},
        {"instruction": "Too long", "input": "", "output": "x" * 90},
        {"instruction": "No answer", "input": "", "output": " "},
        {
            "conversations": [
                {"from": "human", "value": "a?"},
                {"from": "gpt", "value": "b"},
                {"from": "human", "value": "c?"},
            ],
            "chosen": {"from": "gpt", "value": "Yes\nand more"},
        },
    ]
    file.write_text(json.dumps(rows), encoding="utf-8")
    assert list(rows_of(file, 80)) == [
        {"text": "Name it.\na cat", "target": "It is 3.5 kg."},
        {"text": "说说猫。", "target": "猫会睡觉。"},
        {"text": "c?", "target": "Yes"},
    ]
