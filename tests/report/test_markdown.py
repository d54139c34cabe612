import pytest
from markdown_it import MarkdownIt

from lorakit.report.markdown import fenced, plain, section, table

NASTY = [
    "a|b",
    "**bold** _em_ `code`",
    "[link](http://x) ![picture](y)",
    "<img src=x onerror=alert(1)> &lt;",
    "# heading\n---\n| a |",
    r"back\slash \| ``` ~~~",
    "<|im_end|> $x$",
    "1. one - two + three",
]


def tokens(text):
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def shown(text):
    """What a reader sees of the inline parts."""
    return ["".join(child.content for child in token.children) for token in tokens(text) if token.type == "inline"]


@pytest.mark.parametrize("text", NASTY)
def test_a_text_shows_as_it_is_in_a_sentence_and_in_a_cell(text):
    wanted = " ".join(text.split())
    assert shown("It is " + plain(text)) == ["It is " + wanted]
    assert shown(table(["name", text], [[text, "1"], ["b", text]])) == ["name", wanted, wanted, "1", "b", wanted]
    kinds = {child.type for token in tokens(plain("x " + text)) for child in token.children or ()}
    assert kinds <= {"text", "text_special"}


@pytest.mark.parametrize("text", [*NASTY, "```\nnot the end\n```", "````", "---\nbase_model: x\n---"])
def test_a_block_of_code_holds_the_text_and_ends_after_it(text):
    [block, after] = [token for token in tokens(f"{fenced(text, 'python')}\n\nafter") if token.content]
    assert (block.type, block.info, block.content) == ("fence", "python", text + "\n")
    assert after.content == "after"


def test_a_section_without_content_is_left_out():
    assert section("Title", "", "") == ""
    assert section("Title", "", "text") == "## Title\n\ntext"
