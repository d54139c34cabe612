"""The page in a real browser, where there is one: quiet, offline, and no wider than a telephone."""

import shutil
from pathlib import Path

import pytest

from lorakit.console import MarkedText
from lorakit.report import AnsweredRow, DataOverview, Interval, Metric, Report, ShownSequence, write_report
from lorakit.runs import EvaluationRecord, PlanRecord, RecordLog, StepRecord

pytestmark = pytest.mark.slow
SCRIPT = "<script>document.title = 'broken'</script><img src=http://example.org/x onerror=alert(1)>"
LONG = "without_any_place_to_break_the_line_" * 20


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


def write(folder):
    log = RecordLog(folder)
    log.append(PlanRecord(0, 1024, False, False, 3_000_000_000, {"weights": 2_000_000_000, "loss": 1_000_000_000}))
    for step in range(1, 2001):
        log.append(StepRecord(step, step / 3, 4.0 / step, 1e-3, 1.0, 2, 30, 10, 0.1))
    log.append(EvaluationRecord(2000, 1.0, 1.5, 5, 50, 0.1))
    (folder / "config_used.yaml").write_text(f"train_file: {LONG}\n")
    interval = Interval(0.5, 0.25, 0.75)
    report = Report(
        task="train",
        model=LONG,
        adapter=Path(LONG),
        run_folder=folder,
        evaluated=LONG,
        configuration="",
        data=DataOverview((LONG,), ((LONG, LONG),), (LONG,), (ShownSequence(LONG, (MarkedText(LONG, True),)),)),
        metrics=(Metric(LONG, {"base": interval, "tuned": interval}, interval),),
        answered=(AnsweredRow("1", SCRIPT, LONG, {"base": SCRIPT, "tuned": LONG}),),
    )
    return write_report(folder, report)


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page_without_complaint_request_or_sideways_scrolling(browser, tmp_path, width, scheme):
    file = write(tmp_path)
    opened = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(file.as_uri(), wait_until="load")
    assert said == []
    assert asked == [file.as_uri()]
    assert opened.title().startswith("without_any")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert opened.locator("svg").count() == 5
