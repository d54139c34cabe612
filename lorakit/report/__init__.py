"""report.html: all that a run has found, in one file that loads nothing; and the model card beside its adapter."""

from lorakit.report.card import Card, write_card
from lorakit.report.card_usage import Loading
from lorakit.report.content import (
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
)
from lorakit.report.page import write_report

__all__ = [
    "AnsweredRow",
    "Card",
    "DataOverview",
    "Forgetting",
    "GeneralAnswers",
    "Interval",
    "Loading",
    "Memorised",
    "Metric",
    "OneForgetting",
    "Report",
    "ShownSequence",
    "write_card",
    "write_report",
]
