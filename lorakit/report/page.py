"""The page: all sections in one file that a browser shows without a network."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from lorakit.language import language, translated
from lorakit.report import surroundings
from lorakit.report.content import Report
from lorakit.report.markup import Markup, element, joined
from lorakit.report.sections import answers as answer_sections
from lorakit.report.sections import data as data_sections
from lorakit.report.sections import training as training_sections
from lorakit.report.style import STYLE
from lorakit.runs import REPORT_FILE, read_records, write_own_text

# Should a row ever slip through as markup, the browser still loads and runs nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(folder: Path, report: Report) -> Path:
    """Write report.html.

    Args:
        folder: Receives it.
        report: Its content; curves and memory come from the records in ``report.run_folder``.
    """
    text = page(report).encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair in a row has no encoding
    write_own_text(folder, REPORT_FILE, text)
    return folder / REPORT_FILE


def page(report: Report) -> str:
    """Return a report as one HTML document."""
    records = list(read_records(report.run_folder)) if report.run_folder else []
    body = [
        _heading(report),
        answer_sections.metrics(report.metrics, len(report.answered)),
        answer_sections.answers(report.answered),
        training_sections.curves(records),
        training_sections.memory(records),
        data_sections.data(report.data),
        data_sections.masks(report.data),
        answer_sections.memorisation(report.memorised),
        answer_sections.forgetting(report.forgetting),
        surroundings.reproduction(report),
        surroundings.versions_and_machine(report.task),
    ]
    head = [
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Markup('<link rel="icon" href="data:,">'),  # else a browser asks a server for one
        element("title", translated(f"{report.model}: report")),
        element("style", Markup(STYLE)),
    ]
    document = element("html", element("head", *head), element("body", element("main", *body)), lang=language())
    return f"<!DOCTYPE html>\n{document}\n"


def _heading(report: Report) -> Markup:
    adapter = f"{translated('adapter')} {report.adapter.name}" if report.adapter else translated("without an adapter")
    facts = [
        report.model,
        adapter,
        translated(f"answers to {Path(report.evaluated).name}"),
        f"{report.task}, {datetime.now():%Y-%m-%d %H:%M}",
    ]
    sentence = element("p", translated(report.verdict), class_="verdict") if report.verdict else ""
    return joined([element("h1", translated("lorakit report")), sentence, element("p", " · ".join(facts))])
