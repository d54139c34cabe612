"""Every causal and image-text class of the installed transformers is right, or refused by name."""

from pathlib import Path

import pytest
from family_survey import Line, model_types, page, survey

from lorakit.engine import ALL

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


@pytest.fixture(scope="module")
def found():
    return [survey(name) for name in model_types()]


@pytest.mark.slow
def test_no_family_is_silently_wrong(found):
    assert [line for line in found if line.is_wrong] == []


@pytest.mark.slow
def test_most_are_right_and_the_rest_is_refused_with_a_reason(found):
    tried = [line for line in found if line.untried is None]
    assert len(tried) >= 200
    assert sum(line.is_right for line in tried) >= 150
    assert all(line.is_right or line.refusal for line in tried)


@pytest.mark.slow
def test_the_page_says_what_is_found(found):
    says = PAGE.read_text(encoding="utf-8")
    for line in found:
        if line.pieces is not None:
            assert f"| {line.cells[0]} | {line.cells[1]} | {line.cells[2]} | {line.cells[3]} |" in says, line.name
        elif line.refusal is not None:
            assert f"| {line.cells[0]} | refused |" in says, line.name


def test_the_page_names_what_is_right_wrong_refused_and_untried():
    lines = [Line("good", ALL, 1e-6, 1e-7), Line("bad", ALL, 0.5), Line("blind", refusal="sees the answers")]
    written = page([*lines, Line("huge", untried="too large")])
    assert "3 of them. 1 are trained as plain" in written.replace("\n", " ")
    assert "1 are trained otherwise without a word" in written.replace("\n", " ")
    assert "| `blind` | refused |  |  |  |  |  | sees the answers |" in written
    assert "- `huge`: too large" in written
