"""What is written by the shape of a conversation is what the template itself writes."""

import pytest
from conftest import CHATML, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.data_processing import ChatFormat, Message

END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def around(content, before=""):
    """A template that writes each message with an expression for its content."""
    return (
        before
        + "{% for m in messages %}{% set c = m.content %}<|im_start|>{{ m.role }}\n{{ "
        + content
        + " }}<|im_end|>\n{% endfor %}"
        + END
    )


# Each asks another thing of a content.
TEMPLATES = {
    "nothing": CHATML,
    "strip": around("c.strip()"),
    "trim": around("c | trim"),
    "left": around("c.lstrip('\n')"),
    "contains": around("('[x]' + c) if 'x' in c else c"),
    "equals": around("c + ' (y)' if c == 'y' else c"),
    "begins": around("c + '!' if c.startswith('a') else c"),
    "split": around("c.split('x')[-1] + c"),
    "replace": around("c.replace('x', 'xx') + c"),
    "upper": around("c + c.upper()"),
    "length": around("c + (c | length) | string"),
    "slice": around("c + c[:2]"),
    "first": around("c + c[0]"),
    "joined": around("c + ['<', c, '>'] | join('-')"),
    "join": around("c + '-'.join(['<', c])"),
    "format": around("c + '{}'.format(c)"),
    "percent": around("c + '%s' % c"),
    "tilde": around("c ~ ('x' if 'x' in (c ~ '') else '')"),
    "json": around("c + c | tojson"),
    "whole message": around("c + (m | string)"),
    "compared": around("c + ('=' if c == messages[0].content else '')"),
    "macro": around("w(c)", "{% macro w(t) %}{{ t }}{{ 'x' if 'x' in t else '' }}{% endmacro %}"),
    "macro's text": around("w(c) + ('x' if 'x' in w(c) else '')", "{% macro w(t) %}<{{ t }}>{% endmacro %}"),
    "block": "{% for m in messages %}{% set c %}{{ m.content }}{% endset %}<|im_start|>{{ m.role }}\n"
    "{{ c }}{{ 'x' if 'x' in c }}<|im_end|>\n{% endfor %}" + END,
    "in a list": around("c + ('!' if c in ['x', 'y'] else '')"),
    "truth": around("c if c else 'nothing'"),
}
CONTENT = st.one_of(
    st.sampled_from(["x", "y", "a", "\n", " a ", "axa", '"q"', "x\n", "{{ c }}", "lorakitcontent00x", "%s", "<&>"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
)


def shapes_and_template(chat_format, messages):
    written = chat_format._template._written(messages[:-1], messages[-1], thinking=False)
    return written, tuple(
        chat_format._template.render(part, answering, thinking=False)
        for part, answering in ((messages[:-1], True), (messages, False))
    )


@pytest.mark.every(3)
@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_a_template_asks_of_a_content_it_is_answered(name):
    chat_format = ChatFormat(make_tokenizer(TEMPLATES[name], ["<|im_start|>", "<|im_end|>"], "<|im_end|>"))

    @settings(max_examples=60, deadline=None)
    @given(contents=st.lists(CONTENT, min_size=2, max_size=4))
    def check(contents):
        roles = ["user", "assistant"] * 2
        messages = [Message(role, content) for role, content in zip(roles, contents, strict=False)]
        by_shape, by_template = shapes_and_template(chat_format, messages)
        assert by_shape == by_template

    check()


@pytest.mark.parametrize("name", ["nothing", "strip", "trim", "left", "equals", "begins"])
def test_conversations_of_one_shape_do_not_run_the_template_again(name, monkeypatch):
    chat_format = ChatFormat(make_tokenizer(TEMPLATES[name], ["<|im_start|>", "<|im_end|>"], "<|im_end|>"))
    list(chat_format.turns([Message("user", "a"), Message("assistant", "b")]))
    monkeypatch.setattr(chat_format._template, "render", None)
    [turn] = chat_format.turns([Message("user", "other"), Message("assistant", "words")])
    assert turn.answer == "words<|im_end|>\n"
    assert turn.prompt.endswith("other<|im_end|>\n<|im_start|>assistant\n")
