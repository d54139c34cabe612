"""Blocks between marks are those that a regular expression finds, in time that grows with the text alone."""

import contextlib
import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from searching import trying

from lorakit.data_processing.calls.blocks import Marks, outside
from lorakit.data_processing.calls.python_calls import calls_as_python
from lorakit.data_processing.calls.tool_calls import results_in_text, tools_in_text
from lorakit.data_processing.files.json_rows import read_json_text
from lorakit.data_processing.shapes.dialogues import turns_written_in
from lorakit.data_processing.shapes.formats import to_example
from lorakit.data_processing.templates.chat_template import _CLOCK_CALL
from lorakit.data_processing.tokens.quick_rows import _LIST_BEGINS
from lorakit.errors import DataError

MOST_CHARACTERS, MOST_SECONDS = 2_000_000, 10  # of a row, as long as one may be; a square of it is hours


@pytest.mark.parametrize(
    ("opening", "closing"), [("<a>", "</a>"), (r"<a>\s*(?=\{)", r"(?<=\})\s*</a>"), (r"<a=([^<>]+)>", "</a>")]
)
@trying(300)
@given(pieces=st.lists(st.sampled_from(["<a>", "</a>", "<a=b>", "{", "}", " ", "x"]), max_size=12))
def test_blocks_are_those_of_a_lazy_expression(opening, closing, pieces):
    text = "".join(pieces)
    whole = re.compile(f"{opening}(?P<inner>.*?){closing}", re.DOTALL)
    found = list(Marks.compile(opening, closing).blocks(text))
    assert [(block.begin, block.inner, block.end) for block in found] == [
        (match.start(), match["inner"], match.end()) for match in whole.finditer(text)
    ]
    assert outside(text, found) == whole.sub("", text)


def of_a_row(text):
    return to_example(
        next(
            read_json_text(
                json.dumps([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]}]),
                "x",
            )
        )
    )


def document(text):
    with contextlib.suppress(DataError):
        list(read_json_text(f'["{text},]', "x"))


READERS = {
    "an answer": (of_a_row, ["<tool_call>", "<tool_call>{", "<tool_call> "]),
    "a result": (lambda text: list(results_in_text(text)), ["<tool_response>", "<tool_response> "]),
    "tools": (tools_in_text, ["<tools>[", "<tools> "]),
    "turns": (
        lambda text: turns_written_in(f"USER: a{text}"),
        ["\n", " ", "<|endoftext|>", "\n ", "Human:", "### Human"],
    ),
    "calls of Glaive": (
        lambda text: to_example(
            next(read_json_text(json.dumps([{"chat": f"USER: a\n\nASSISTANT: {text}", "system": "x"}]), "x"))
        ),
        ["""<functioncall>{"name":"a","arguments":'""", "<functioncall> "],
    ),
    "calls of ToolACE": (lambda text: calls_as_python(f"[a({text})]"), ["'", "\\'", "(", "'\\'", "a "]),
    "a list": (_LIST_BEGINS.search, ["\n", " ", "\n "]),
    "a document with a comma too many": (document, ['\\"', "\\", ", ", '"']),
    "a template with a clock": (lambda text: list(_CLOCK_CALL.finditer(text)), ["strftime_now('", "strftime_now( "]),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "piece"), [(name, piece) for name, (_, all_) in READERS.items() for piece in all_])
def test_millions_of_beginnings_take_no_more_than_ten_seconds(name, piece):
    started = time.process_time()
    READERS[name][0](piece * (MOST_CHARACTERS // len(piece) - 20))
    assert time.process_time() - started < MOST_SECONDS
