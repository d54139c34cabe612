"""What a whole report.html is made of."""

import re

SECTIONS = [
    "Scores",
    "Answers",
    "Training",
    "Memory",
    "Data",
    "What is trained",
    "Learnt by heart",
    "Other questions",
    "To do it again",
    "Versions and machine",
]


def headings(text):
    return re.findall(r"<h2>(.*?)</h2>", text)
