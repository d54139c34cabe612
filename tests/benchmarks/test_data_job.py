import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from data_job import prepare_by_lorakit, prepare_by_trl, write_rows


def test_both_tools_are_given_the_same_rows(tmp_path):
    files = write_rows(3, tmp_path)
    texts = (files[tool].read_text("utf-8") for tool in ("lorakit", "trl"))
    own, other = ([json.loads(line) for line in text.splitlines()] for text in texts)
    assert [(row["text"], row["target"]) for row in own] == [
        (row["prompt"][0]["content"], row["completion"][0]["content"]) for row in other
    ]
    assert len({row["text"] for row in own}) == 3


@pytest.mark.slow
def test_both_tools_make_the_same_tokens_of_them(tmp_path):
    files = write_rows(3, tmp_path)
    own, other = prepare_by_lorakit(str(files["lorakit"])), prepare_by_trl(str(files["trl"]))
    assert own["tokens"] == other["tokens"]
    assert own["trained"] == other["trained"] - 3  # TRL trains the line break behind each answer too
