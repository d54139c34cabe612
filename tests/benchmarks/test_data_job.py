import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from data_job import COUNTS, prepare_by_lorakit, prepare_by_trl, section, write_rows
from report import as_markdown


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


def line(tool, rows, seconds, date="2026-11-29T01:00:00+00:00", is_complete=True):
    numbers = {"rows": rows, "seconds": seconds, "cpu_seconds": seconds / 2, "tokens": 79 * rows, "trained": 34 * rows}
    about = {"processor": "P", "cores": 2, "flags": ["avx2"]}
    common = {
        "commit": "abc",
        "dirty": False,
        "machine": about,
        "repeats": 3,
        "job": "D1",
        "fault": None,
        "threads": "1",
    }
    return {**common, "date": date, "is_complete": is_complete, "tool": tool, "numbers": numbers}


def test_the_page_shows_the_newest_complete_run_with_its_ratios():
    earlier = [line(tool, rows, 9.0, "2026-11-28") for rows in COUNTS for tool in ("lorakit", "trl")]
    newest = [line(tool, rows, seconds) for rows in COUNTS for tool, seconds in (("lorakit", 2.0), ("trl", 25.0))]
    tried = [line("lorakit", 5, 1.0, "2026-11-30", is_complete=False)]
    [shown] = section([*earlier, *newest, *tried], as_markdown)
    assert shown.count("12.50 x, 12.50 x") == len(COUNTS)
    assert "| 200,000: lorakit | 2.000 | 100,000 | 1.000 | 200,000 | 15,800,000 | 1.00 x, 1.00 x |" in shown
    assert "2 cores of P (avx2)" in shown
    assert section(tried, as_markdown) == []
