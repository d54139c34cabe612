"""Rows of a known shape have what they have when they are read one by one."""

import json

import pytest
from conftest import CHATML, examples, family_tokenizer, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from row_shapes import SHAPES
from tokenizer_kinds import template_names, tokenizer_of

from lorakit.config.loading import make_config
from lorakit.data_processing import ChatFormat
from lorakit.data_processing.field_names import read_name
from lorakit.data_processing.files.opening import Reading, read_rows
from lorakit.data_processing.raw import RawRow
from lorakit.data_processing.shapes.formats import RowRules
from lorakit.data_processing.tokens.columns import Writer
from lorakit.data_processing.tokens.written_rows import Encoding, RowEncoder

FORMATS = {
    "keeps history": ChatFormat(make_tokenizer(CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>")),
    "rewrites history": ChatFormat(family_tokenizer("qwen3")),
    "begins with a token": ChatFormat(family_tokenizer("llama")),
    "plain": ChatFormat(family_tokenizer("gpt2")),
}
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["", " ", "Nine miles.", "<think>\nx\n</think>\n\ny", "<|im_end|>", "[1, 2]", '{"role": "user"}', "\n a"]
    ),
    st.sampled_from(
        ["SYSTEM: be brief", "<image>", "[INST] a", "\ufdd0", "lorakitfield000x", "think>", "\ud800", "  a  "]
    ),
    st.sampled_from(['<tool_call>{"name": "f"}</tool_call>', "### Answer:", "null", "<|eot_id|>", "a" * 300]),
)


def encoding_of(chat_format, config=None, max_length=100):
    rules = RowRules.of(config or make_config({}, "here"), takes_pictures=False)
    return Encoding(rules, chat_format, max_length, trains_reasoning=True)


def told(rows, encoding, is_quick):
    """What became of rows, as columns have it, with the ledger; and how many of them were quick."""
    encoder, writer = RowEncoder(encoding), CountingWriter()
    if not is_quick:
        encoder._quick = None
    written = encoder.begin(writer)
    for chunk in (rows[:1], rows[1:]):
        encoder.write(chunk, written)
    columns = writer.finished()
    arrays = {name: column.tolist() for name, column in columns.arrays.items()}
    examples = [columns.example(number) for number in range(writer.rows)]
    return (arrays, columns.beginnings, examples, written.rejected, written.ledger.fates()), writer.quick


class CountingWriter(Writer):
    quick = 0

    def add_quick(self, row):
        super().add_quick(row)
        self.quick += 1


def with_texts(value, texts):
    """A row with other texts in the places of its own."""
    if isinstance(value, str):
        return next(texts, value)
    if isinstance(value, list):
        return [with_texts(one, texts) for one in value]
    if isinstance(value, dict):
        return {key: one if read_name(key) == "role" else with_texts(one, texts) for key, one in value.items()}
    return value


def raw_rows(name, tmp_path):
    file = tmp_path / "rows"
    file.write_bytes(SHAPES[name].content)
    config = make_config({"train_file": str(file), **dict(SHAPES[name].settings)}, "here")
    columns = frozenset(RowRules.of(config, takes_pictures=False).renamed)
    return [row for row in read_rows(str(file), Reading(config.encoding, columns)) if isinstance(row, RawRow)], config


@pytest.mark.every(9)
@pytest.mark.generated
@pytest.mark.parametrize("name", SHAPES)
def test_any_rows_of_this_shape_are_what_they_are_one_by_one(name, tmp_path):
    [first, *_], config = raw_rows(name, tmp_path)

    @settings(max_examples=examples(16), deadline=None)
    @given(st.lists(st.lists(TEXT, max_size=6), max_size=4), st.sampled_from(sorted(FORMATS)))
    def hold(texts, which):
        others = [RawRow(with_texts(first.fields, iter(own)), f"rows item {n}") for n, own in enumerate(texts, start=2)]
        encoding = encoding_of(FORMATS[which], config)
        rows = [first, RawRow(first.fields, "rows item 1000"), *others]
        quick, _ = told(rows, encoding, is_quick=True)
        assert quick == told(rows, encoding, is_quick=False)[0]

    hold()


@pytest.mark.slow
@pytest.mark.parametrize("template", template_names())
def test_the_same_with_every_template(template, tmp_path):
    for end in ("<eos>",):
        try:
            chat_format = ChatFormat(tokenizer_of("byte-level", template, end))
        except Exception:
            pytest.skip("needs more than a tokenizer")
        for name in SHAPES:
            [first, *_], config = raw_rows(name, tmp_path)
            texts = [["Who?", "I.", "And you?"], [" a ", "b\n", "\nc"], ["x: [1]", "1. {y}", "'s"]]
            rows = [RawRow(with_texts(first.fields, iter(own)), f"r item {n}") for n, own in enumerate(texts, start=2)]
            encoding = encoding_of(chat_format, config, 400)
            assert told([first, *rows], encoding, True)[0] == told([first, *rows], encoding, False)[0]


PAIR, TALK = {"text": "How far?", "target": "Nine miles."}, [("user", "How far?"), ("assistant", "Nine miles.")]
MESSAGES = {"messages": [{"role": role, "content": text} for role, text in TALK]}
LONG = {"conversations": [{"from": who, "value": f"{who} {n}"} for n in range(3) for who in ("human", "gpt")]}
COPY = {"prompt": "How far?", **MESSAGES}  # of the first turn
ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "Three.", "id": 3, "tags": ["a"]}


@pytest.mark.parametrize("which", FORMATS)
@pytest.mark.parametrize("row", [PAIR, MESSAGES, LONG, ALPACA, {**PAIR, "system": "Be brief."}, COPY])
def test_common_rows_are_quick(which, row):
    """Else the tests above would compare a thing with itself."""
    rows = [RawRow(json.loads(json.dumps(row)), f"rows item {number}") for number in range(1, 4)]
    found, count = told(rows, encoding_of(FORMATS[which], max_length=400), is_quick=True)
    assert count == 2
    assert found == told(rows, encoding_of(FORMATS[which], max_length=400), is_quick=False)[0]
    assert [fate.rows for fate in found[4] if fate.place in row] == [3] * len(row)


def test_a_row_that_is_too_long_is_cut_as_any_other():
    rows = [RawRow({"text": text, "target": "Nine."}, f"r item {n}") for n, text in enumerate(["a", "b", "far " * 200])]
    (arrays, *_), count = told(rows, encoding_of(FORMATS["plain"], max_length=60), is_quick=True)
    assert count == 1
    assert arrays["flags"] == [0, 0, 2]
    assert arrays["token_ends"][-1] - arrays["token_ends"][-2] == 60
