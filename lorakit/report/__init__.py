"""report.html: all that a run has found, in one file that loads nothing."""

from lorakit.report.content import (
    AnsweredRow,
    DataOverview,
    GeneralAnswers,
    Interval,
    Memorised,
    Metric,
    Report,
    ShownSequence,
)
from lorakit.report.page import write_report

__all__ = [
    "AnsweredRow",
    "DataOverview",
    "GeneralAnswers",
    "Interval",
    "Memorised",
    "Metric",
    "Report",
    "ShownSequence",
    "write_report",
]
