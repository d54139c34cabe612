import re
from pathlib import Path

import pytest
from report_page import SECTIONS, headings

from lorakit.console import MarkedText
from lorakit.language import speak_language
from lorakit.report import (
    AnsweredRow,
    DataOverview,
    Forgetting,
    GeneralAnswers,
    Interval,
    Memorised,
    Metric,
    OneForgetting,
    Report,
    ShownSequence,
    write_report,
)
from lorakit.report.page import page
from lorakit.runs import EvaluationRecord, MemoryRecord, PlanRecord, RecordLog, StepRecord

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def empty(**content):
    return Report(
        task="evaluate",
        model="starter",
        adapter=None,
        run_folder=None,
        evaluated="rows.json",
        configuration="seed: 1\n",
        **content,
    )


@pytest.fixture
def run_folder(tmp_path):
    log = RecordLog(tmp_path)
    log.append(PlanRecord(0, 1024, True, False, 3_000_000_000, {"weights": 2_000_000_000, "loss": 1_000_000_000}))
    for step in range(1, 4):
        log.append(StepRecord(step, step / 3, 4.0 / step, 1e-3, 1.0, 2, 30, 10, 0.1))
    log.append(EvaluationRecord(3, 1.0, 1.5, 5, 50, 0.1))
    log.append(MemoryRecord(3, 2_500_000_000))
    (tmp_path / "config_used.yaml").write_text(f"text_field: '{SCRIPT}'\nhub_token: secret\n")
    return tmp_path


def full(run_folder, text="text"):
    interval = Interval(0.5, 0.25, 0.75)
    return Report(
        task="train",
        model=text,
        adapter=Path(text),
        run_folder=run_folder,
        evaluated=text,
        configuration=text,
        data=DataOverview((text,), ((text, "1"),), (text,), (ShownSequence(text, (MarkedText(text, True),)),)),
        metrics=(Metric(text, {"base": 1.0, "tuned": interval}, interval),),
        answered=(AnsweredRow(text, text, text, {"base": text, "tuned": "other"}),),
        memorised=(Memorised(text, text, 0.5, None, True),),
        forgetting=Forgetting(
            (GeneralAnswers(text, text, text), GeneralAnswers(text, text, "other")),
            (OneForgetting(None, 20, 0.25, 1, 2, 1.5), OneForgetting("previous/3", 0, 0.75, 0, 2, 1.4)),
        ),
    )


def test_all_sections_are_there(run_folder):
    shown = page(full(run_folder))
    assert headings(shown) == SECTIONS
    for title in ("Loss", "Learning rate", "Gradient norm", "Speed"):
        assert f"<strong>{title}</strong>" in shown
    assert "0.5000 <small>[0.2500, 0.7500]</small>" in shown
    assert "1 of 2 answers are unchanged (50%)" in shown
    for cells in (("this run", "20", "0.2500", "1 / 2", "1.5000"), ("previous/3", "0", "0.7500", "0 / 2", "1.4000")):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in shown
    assert "1 of 1 tuned answers are a training answer word for word" in shown
    assert "secret" not in shown
    assert "<td>3.000</td>" in shown  # planned, in GB
    assert "<td>2.500</td>" in shown  # measured


def test_what_is_missing_is_left_out():
    shown = page(empty())
    assert headings(shown) == ["To do it again", "Versions and machine"]
    assert "the settings of this evaluate task" in shown


def test_rows_cannot_become_part_of_the_page(run_folder):
    shown = page(full(run_folder, SCRIPT))
    assert "<script" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;" in shown


def test_nothing_is_loaded_and_nothing_may_run(run_folder):
    shown = page(full(run_folder))
    assert "http://" not in shown
    assert "https://" not in shown
    assert re.findall(r'(?:src|href)="([^"]*)"', shown) == ["data:,"]
    assert "default-src 'none'" in shown


def test_exact_answers_are_flagged_and_others_marked():
    rows = (AnsweredRow("1", "q", "早睡早起。", {"base": "早睡。", "tuned": "早睡早起。"}),)
    shown = page(empty(answered=rows))
    assert '<td data-label="base">早睡<del>早起</del>。</td>' in shown
    assert '<td data-label="tuned"><b class="exact">✓ exact</b> 早睡早起。</td>' in shown


def test_only_the_first_fifty_rows_are_shown_and_the_others_counted():
    rows = tuple(AnsweredRow(str(number), f"question {number}.", "a", {"base": "b"}) for number in range(60))
    shown = page(empty(answered=rows))
    assert "question 49." in shown
    assert "question 50." not in shown
    assert "The first 50 of 60 rows" in shown


def test_trained_and_other_tokens_are_told_apart_and_a_long_row_keeps_its_end():
    parts = tuple(MarkedText(f"t{number}", number >= 900) for number in range(1000))
    shown = page(empty(data=DataOverview(("f",), (("rows", "1"),), (), (ShownSequence("row 1", parts),))))
    assert '<span class="token">t0</span>' in shown
    assert '<span class="token trained">t999</span>' in shown
    assert "400 tokens" in shown
    assert ">t300<" not in shown


def test_a_file_is_written_whatever_the_rows_hold(tmp_path):
    file = write_report(tmp_path, empty(answered=(AnsweredRow("1", "half a pair \ud83d", "a", {"base": "\x00"}),)))
    assert file.name == "report.html"
    assert "half a pair ?" in file.read_text(encoding="utf-8")


def test_what_became_of_every_field_is_listed_and_what_should_be_looked_at_stands_above():
    fields = (("rows.json", "zebra", "3", "not used"), ("rows.json", "text", "9", "question"))
    overview = DataOverview(("rows.json",), (("rows", "9"),), fields=fields, warnings=('"zebra" (3 rows) is not used',))
    shown = page(empty(data=overview))
    assert "&quot;zebra&quot; (3 rows) is not used" in shown
    assert "What became of every field" in shown
    assert "<td>question</td>" in shown


def test_the_page_is_chinese_where_lorakit_speaks_chinese(run_folder):
    speak_language("zh")
    try:
        shown = page(full(run_folder, "数据"))
    finally:
        speak_language("en")
    said = re.sub(r"<style>.*?</style>|<pre.*?</pre>", "", shown, flags=re.DOTALL)
    texts = [*re.findall(r">([^<]+)<", said), *re.findall(r'(?:aria-label|data-label)="([^"]*)"', said)]
    assert [text for text in texts if re.search(r"[A-Za-z]{3,} [a-z]{2,}", text)] == []
    assert {"得分", "回答", "训练", "内存", "数据"} <= set(texts)
    assert '<html lang="zh">' in shown
