"""Whatever bytes a file of rows holds: rows, rejected rows, or one DataError. Nothing else ever comes out."""

import gzip
import io
import json
from functools import cache
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from conftest import examples, family_tokenizer
from hostile_data import archive_of_a_version_to_come
from hypothesis import example, given
from hypothesis import strategies as st
from searching import counted, trying

from lorakit.data_processing import ChatFormat, Example
from lorakit.data_processing.example import Rejected
from lorakit.data_processing.files.opening import RawRow, read_rows
from lorakit.data_processing.shapes.formats import to_example
from lorakit.data_processing.tokens.encoding import EncodedRow, encode_row
from lorakit.errors import DataError

ROWS = [
    {"text": "问一", "target": "答一"},
    {"text": 'with "quotes", commas;\nand lines', "target": "\t"},
    {"text": "a", "target": "b"},
]
pytestmark = pytest.mark.generated
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
few = trying(examples(300))


@cache
def valid(suffix):
    """A sound file of each kind."""
    if suffix == ".json":
        return json.dumps({"data": ROWS}, indent=1).encode()
    if suffix == ".jsonl":
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
    if suffix == ".csv":
        return 'text,target\n"问一",答一\n"with ""quotes"", commas",b\n'.encode("utf-8-sig")
    if suffix == ".gz":
        return gzip.compress(valid(".jsonl"))
    written = io.BytesIO()
    if suffix == ".xlsx":
        book = openpyxl.Workbook()
        for cells in (("text", "target"), *((row["text"], row["target"]) for row in ROWS)):
            book.active.append(cells)
        book.save(written)
        return written.getvalue()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), written)
    return written.getvalue()


@st.composite
def mutated(draw, content):
    """The bytes of a sound file with a few of them changed, taken away, doubled or put in."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        end = min(start + draw(st.sampled_from([0, 1, 1, 4, 40])), len(changed))
        piece = draw(st.one_of(st.binary(max_size=4), st.just(bytes(changed[start:end]) * 2), st.just(b"")))
        changed[start:end] = piece
    return bytes(changed)


def outcomes(file: Path, content: bytes) -> None:
    """Read a file as training does, and hold everything that comes out to what is promised."""
    file.write_bytes(content)
    said = None
    try:
        for row in counted(read_rows, str(file)):
            assert row.origin.startswith(str(file))
            judged = row if isinstance(row, Rejected) else to_example(row)
            assert isinstance(judged, Example) or judged.reason
    except DataError as error:
        said = error
    if said is not None:
        assert said.message.startswith(str(file))
        assert said.hint


@few
@given(content=st.binary(max_size=200))
@example(content=b"PAR1")
@example(content=b"\x1f\x8b")
@example(content=b"PK\x03\x04")
@example(content=archive_of_a_version_to_come())
@example(content=b"BZh9")
@example(content=b"\x28\xb5\x2f\xfd")
@example(content=b"\xd0\xcf\x11\xe0")
@example(content=b"\xff\xfe\x00")
@example(content=b"\xef\xbb\xbf\xff")
@example(content=b"\x1b$B")
@example(content=b"sep=;\n")
@example(content=b'{"a":' * 50_000)
@example(content=b'{"text": ' + b"9" * 5000 + b', "target": 1}')
@example(content=b'"text,target\n1,2')
def test_any_bytes_are_rows_or_one_error(tmp_path, content):
    for suffix in SUFFIXES:
        outcomes(tmp_path / f"rows{suffix}", content)


@trying(examples(1200))
@given(data=st.data())
def test_a_sound_file_with_damage_is_rows_or_one_error(tmp_path, data):
    suffix = data.draw(st.sampled_from([*SUFFIXES, ".xlsx", ".gz"]))
    outcomes(tmp_path / f"rows{suffix}", data.draw(mutated(valid(suffix))))


FIELDS = ("text", "target", "messages", "conversations", "instruction", "input", "output", "history", "system", "image")
FIELDS += ("tools", "answers", "chat", "context", "reasoning", "chosen", "rejected", "query")
PARTS = ("role", "content", "from", "value", "type", "images", "path", "url", "reasoning_content", "question", "answer")
PARTS += ("tool_calls", "function", "name", "arguments", "weight", "masked", "tool_call_id", "bytes", "parts", "id")
WORDS = ("user", "assistant", "system", "human", "gpt", "text", "image", "<image>", "<|im_end|>", "\ud800")
WORDS += ("tool", "function_call", "observation", "thinking", "tool_use", "tool_result", "[]", "{}", "[{}]", "USER: a")
names = st.sampled_from(FIELDS + PARTS)
words = st.sampled_from(WORDS)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), words)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(names, st.text(max_size=3)), inner)),
    max_leaves=12,
)
calls = st.one_of(
    values,
    st.lists(st.fixed_dictionaries({"name": words, "arguments": values}), max_size=2),
    st.lists(
        st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": words, "arguments": values})}), max_size=2
    ),
)
roles = st.one_of(st.sampled_from(["user", "assistant", "tool", "gpt"]), words, values)
turns = st.lists(
    st.fixed_dictionaries(
        {"role": roles, "content": st.one_of(words, values)},
        optional={"tool_calls": calls, "weight": scalars, "reasoning": values, "name": words},
    ),
    max_size=4,
)
tools = st.one_of(values, st.lists(st.fixed_dictionaries({"name": words}, optional={"parameters": values}), max_size=2))
rows = st.one_of(
    values,
    st.dictionaries(names, values, max_size=5),
    st.fixed_dictionaries({"text": values, "target": values}, optional={"image": values, "images": values}),
    st.fixed_dictionaries({"messages": turns}, optional={"system": values, "image": values, "tools": tools}),
    st.fixed_dictionaries({"query": words, "tools": tools, "answers": calls}),
    st.fixed_dictionaries({"instruction": values, "output": values}, optional={"history": values, "input": values}),
)


@pytest.fixture(scope="module")
def chat_format():
    return ChatFormat(family_tokenizer("qwen3"))


@trying(examples(600))
@given(fields=rows)
def test_a_row_of_any_shape_is_encoded_or_rejected_with_a_reason(chat_format, fields):
    judged = counted(to_example, RawRow(fields, "here", Path("/nowhere")))
    if isinstance(judged, Example):
        judged = encode_row(judged, chat_format, max_length=64)
    if isinstance(judged, EncodedRow):
        assert all(0 < sequence.targets < len(sequence.input_ids) <= 64 for sequence in judged.sequences)
    else:
        assert judged.origin == "here"
        assert 0 < len(judged.reason) < 1000
