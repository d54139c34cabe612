import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from report import as_markdown, as_text, newest_complete, page, read_history, table

NUMBERS = {
    "samples_per_second": 2.0,
    "samples_per_second_after_first_step": None,
    "target_tokens_per_second": 50.0,
    "peak_gigabytes": 3.0,
    "first_step_seconds": 9.0,
    "first_loss": 2.0,
    "mean_loss": 1.5,
    "final_loss": 1.0,
    "least_grad_norm": 0.1,
    "rows": 64,
    "target_tokens": 400,
    "gemm_share": 0.25,
    "runs": 3,
}


def line(tool, samples_per_second=2.0, fault=None, **changes):
    numbers = None if samples_per_second is None else {**NUMBERS, "samples_per_second": samples_per_second}
    return {
        "date": "2030-01-01T10:00:00+00:00",
        "job": "R1",
        "is_complete": True,
        "commit": "abc1234",
        "dirty": False,
        "machine": {"processor": "Some Processor", "cores": 2, "flags": ["avx512_bf16"], "system": "Linux"},
        "gemm_gflops": 900.0,
        "repeats": 3,
        "work": {"rows": 64, "tokens": 1000, "target_tokens": 400, "rows_source": "file"},
        "tool": tool,
        "versions": {"torch": "2.14.1"},
        "fault": fault,
        "numbers": numbers,
        **changes,
    }


LINES = [
    line("lorakit", 6.0),
    line("trainer", 2.0),
    line("trl", 4.0, fault="trained 3 of 64 rows"),
    line("llamafactory", None, fault="not installed: no such package"),
]


def test_ratios_say_how_much_faster_lorakit_is():
    rows = table(LINES)
    assert [row[-1] for row in rows[1:3]] == ["1.00 x", "3.00 x"]


def test_a_tool_that_does_not_count_has_its_numbers_and_the_reason_in_place_of_a_ratio():
    row = table(LINES)[3]
    assert row[1] == "4.00"
    assert row[-1] == "not counted: trained 3 of 64 rows"


def test_a_tool_that_did_not_run_has_only_the_reason():
    row = table(LINES)[4]
    assert set(row[1:-1]) == {"-"}
    assert row[-1] == "not installed: no such package"


def test_without_lorakit_there_are_no_ratios():
    assert table([line("trainer")])[1][-1] == "-"


def test_every_row_is_as_long_as_the_header():
    rows = table(LINES)
    assert {len(row) for row in rows} == {len(rows[0])}
    assert {text.count("|") for text in as_markdown(rows).splitlines()} == {len(rows[0]) + 1}
    assert len(as_text(rows).splitlines()) == len(rows)


def test_the_page_shows_the_newest_complete_run_of_each_job():
    newer = [
        line("lorakit", 8.0, date="2030-02-01T10:00:00+00:00"),
        line("trainer", 2.0, date="2030-02-01T10:00:00+00:00"),
        line("lorakit", 99.0, date="2030-03-01T10:00:00+00:00", is_complete=False),
    ]
    assert newest_complete([*LINES, *newer], "R1") == [newer[:2]]
    text = page([*LINES, *newer])
    assert "4.00 x" in text
    assert "99.00" not in text
    assert "2030-02-01" in text


def test_each_kind_of_machine_has_its_own_newest_run():
    other = {"processor": "Another Processor", "cores": 2, "flags": [], "system": "Linux"}
    elsewhere = [line("lorakit", 7.0, date="2030-04-01T10:00:00+00:00", dtype="float32", machine=other)]
    assert newest_complete([*LINES, *elsewhere], "R1") == [elsewhere, LINES]
    text = page([*LINES, *elsewhere])
    assert text.index("R1 in float32") < text.index("R1 in bfloat16")


def test_the_page_says_machine_commit_and_what_counts():
    text = page(LINES)
    for said in ("2 cores of Some Processor (avx512_bf16)", "commit abc1234", "900 GFLOP/s", "ratios are what counts"):
        assert said in text
    assert "with changes" in page([line("lorakit", dirty=True)])


def test_history_that_is_not_there_is_empty(tmp_path):
    assert read_history(tmp_path / "history.jsonl") == []
