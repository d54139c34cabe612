"""Bad input: rows that ask for more than words, and files that are no files of rows."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile

import openpyxl
import pyarrow
import pyarrow.parquet
from bad_input import Case, Lab, data

TOO_MUCH = "unpacks to more than 100 times its size"


def rows_of(*rows: object) -> str:
    return json.dumps(rows, ensure_ascii=False)


def _parquet(*columns: str) -> bytes:
    stream = io.BytesIO()
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]) for _ in columns], names=list(columns))
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()


def _repeated(length: int, rows: int) -> bytes:
    """A text that stands in a Parquet file once, for many rows."""
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int8()), pyarrow.array(["x" * length]))
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([text, text], names=["text", "target"]), stream)
    return stream.getvalue()


def _sheet(name: str, content: bytes) -> bytes:
    """A spreadsheet with another part."""
    book, stream = io.BytesIO(), io.BytesIO()
    openpyxl.Workbook().save(book)
    with zipfile.ZipFile(book) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.namelist():
            new.writestr(part, content if part == name else old.read(part))
    return stream.getvalue()


_FAR_DOWN = (
    b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
    b'<row r="1000000000"><c r="A1000000000"><v>1</v></c></row></sheetData></worksheet>'
)

_FAR_RIGHT = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
    + "".join(f'<row r="{row}"><c r="XFD{row}"><v>1</v></c></row>' for row in range(1, 3000))
    + "</sheetData></worksheet>"
).encode()


def _archive(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "x")
    return stream.getvalue()


def archive_of_a_version_to_come() -> bytes:
    """An archive whose list of files says that it needs version 25.5 of the format."""
    archive = bytearray(_archive("xl/workbook.xml"))
    archive[archive.index(b"PK\x01\x02") + 6] = 0xFF
    return bytes(archive)


def _pipe(lab: Lab, name: str) -> list[str]:
    os.mkfifo(lab.folder / name)
    return lab.command("train", f"--set=train_file={lab.folder / name}")


FILES = [
    data("two columns of one name", lambda: _parquet("text", "text", "target"), "has two columns", file="bad.parquet"),
    data("a Parquet file without rows of ours", lambda: _parquet("a", "b"), file="bad.parquet"),
    data("a Parquet file cut in the middle", lambda: _parquet("text", "target")[:-20], "Parquet", file="bad.parquet"),
    data("a Parquet file of other bytes", b"PAR1" + b"\xff" * 300 + b"PAR1", "Parquet", file="bad.parquet"),
    data("a picture for a file of rows", b"\x89PNG\r\n\x1a\n" + bytes(60), file="bad.json"),
    data("a pickle for a file of rows", b"\x80\x04\x95\x10\x00\x00\x00", file="bad.json"),
    data("an archive for a file of rows", b"PK\x03\x04" + bytes(40), "is a damaged ZIP archive", file="bad.json"),
    data("gzip for a file of rows", b"\x1f\x8b\x08" + bytes(40), "is a damaged packed file", file="bad.jsonl"),
    data(
        "a packed file of noughts alone", lambda: gzip.compress(bytes(101_000_000), 1), "unpacks to more than 100 times"
    ),
    data(
        "an archive of other files", _archive("notes.txt"), "is a ZIP archive or an OpenDocument file", file="bad.zip"
    ),
    data(
        "an archive of a version to come", archive_of_a_version_to_come(), "is a damaged ZIP archive", file="bad.xlsx"
    ),
    data("a spreadsheet of nothing", _archive("xl/workbook.xml"), "is a damaged spreadsheet", file="bad.xlsx"),
    data("Parquet rows without end", lambda: _repeated(1, 1_000_000), TOO_MUCH, file="bad.parquet"),
    data("Parquet texts without end", lambda: _repeated(1_000_000, 200), TOO_MUCH, file="bad.parquet"),
    data(
        "a spreadsheet of noughts alone",
        lambda: _sheet("xl/worksheets/sheet1.xml", bytes(25_000_000)),
        TOO_MUCH,
        file="bad.xlsx",
    ),
    data(
        "a spreadsheet with a row far down",
        lambda: _sheet("xl/worksheets/sheet1.xml", _FAR_DOWN),
        "has more than 1048576 rows",
        file="bad.xlsx",
    ),
    data(
        "a spreadsheet of empty cells",
        lambda: _sheet("xl/worksheets/sheet1.xml", _FAR_RIGHT),
        "consists of empty cells",
        file="bad.xlsx",
    ),
    data("NULs for a file of rows", bytes(1000), file="bad.jsonl"),
    data("one line of a million brackets", "[" * 1_000_000, "nested too deeply"),
    data("a million commas in CSV", "text,target\n" + "," * 200_000 + "\n", "holds no rows", file="bad.csv"),
    data(
        "three hundred thousand columns",
        ",".join(["text", "target", *map(str, range(300_000))]) + "\na,b\n",
        "has more than 20000 columns",
        file="bad.csv",
    ),
    data(
        "columns without end in Parquet",
        lambda: _parquet("text", "target", *map(str, range(20_000))),
        "has more than 20000 columns",
        file="bad.parquet",
    ),
    data("an escape that is none", '[{"text": "\\q", "target": "b"}]', "is not valid JSON"),
    *[
        Case(f"rows that are a pipe: {name}", lambda lab, name=name: _pipe(lab, name), ("is a device, a pipe",))
        for name in ("bad.json", "bad.jsonl", "bad.csv", "bad.parquet")
    ],
]

NOT_TEXT = [
    data(f"a question that is {value!r}"[:60], rows_of({"text": value, "target": "b"}), "item 1")
    for value in (True, None, [], {}, ["a"], {"a": "b"})
] + [
    data(f"an answer that is {value!r}"[:60], rows_of({"text": "a", "target": value}), "item 1")
    for value in (True, {}, {"a": "b"}, " \t\n", "")
]

_CALL = {"function": {"name": "f", "arguments": "{}"}}
_FUNCTIONS = "You have access to the following functions. Use them if required -"


def _turns(
    tool: str = "", calls: object = None, question: str = "", weight: object = None
) -> dict[str, list[dict[str, object]]]:
    answer: dict[str, object] = {"role": "assistant", "content": "b"}
    answer |= {} if calls is None else {"tool_calls": calls}
    answer |= {} if weight is None else {"weight": weight}
    turns: list[dict[str, object]] = [{"role": "user", "content": "a"}, answer]
    turns += [{"role": "tool", "content": tool}] if tool else []
    turns += [{"role": "user", "content": question}] if question else []
    turns += [{"role": "assistant", "content": "d"}] if tool or question else []
    return {"messages": turns}


TURNS = [
    data(f"turns: {name}", rows_of({"messages": turns}), "item 1")
    for name, turns in {
        "none": [],
        "a thousand and two": [{"role": role, "content": "x"} for role in ("user", "assistant") * 501],
        "a null": None,
        "an object": {"role": "user"},
        "a turn without a role": [{"content": "a"}],
        "a turn without content": [{"role": "user"}],
        "content that is an object": [{"role": "user", "content": {"a": 1}}, {"role": "assistant", "content": "b"}],
        "an answer that is null": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}],
        "a role that is null": [{"role": None, "content": "a"}, {"role": "assistant", "content": "b"}],
        "a role of escape sequences": [{"role": "\x1b]0;t\x07", "content": "a"}],
        "a part that is unknown": [
            {"role": "user", "content": [{"type": "audio", "audio": "x.wav"}]},
            {"role": "assistant", "content": "b"},
        ],
    }.items()
]


def _results(*names):
    calls = [{**_CALL, "id": name} for name in ("1", "2")]
    results = [{"role": "tool", "tool_call_id": name, "content": "x"} for name in names]
    question = {"role": "user", "content": "a"}
    answers = [{"role": "assistant", "tool_calls": calls}, *results, {"role": "assistant", "content": "b"}]
    return {"messages": [question, *answers]}


CALLS = [
    data(f"calls: {name}", rows_of(row), "item 1", words)
    for name, words, row in (
        ("a result that nobody asked for", "the result of a call that no turn before it makes", _turns(tool="x")),
        (
            "a call without a result",
            "a call without a result before the next turn",
            _turns(calls=[_CALL], question="c"),
        ),
        ("a number", "is not a call", _turns(calls=[5])),
        ("of nothing", "does not name a function", _turns(calls=[{"function": {}}])),
        ("of no function", "does not name a function", _turns(calls=[{"type": "own", "function": {"name": "f"}}])),
        ("tools that are numbers", "is not a function with a name", _turns() | {"tools": [5]}),
        ("tools that are text", "is not a list of tools", _turns() | {"tools": "x"}),
        ("a weight of another kind", "it is 0 or 1", _turns(weight=5)),
        ("a log that begins with nobody", "does not begin with USER", {"system": _FUNCTIONS, "chat": "hello"}),
        ("a conversation on one line", "do not each begin a line", {"text": "USER: a ASSISTANT: b"}),
        ("a conversation behind a preamble", "do not each begin a line", {"text": "A chat. USER: a ASSISTANT: b</s>"}),
        (
            "results of calls that were not made",
            "has results of the calls 2, 3, where calls are 1, 2",
            _results("2", "3"),
        ),
        ("two results of one call", "has results of the calls 2, 2, where calls are 1, 2", _results("2", "2")),
    )
]

PICTURES = [
    data(f"a picture called {name!r}"[:60], rows_of({"text": "a", "target": "b", "image": name}), "item 1")
    for name in (
        "../../etc/passwd",
        "/dev/zero",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        5,
        {"a": 1},
    )
]

DEEP = [
    data(
        f"a field nested in itself: {name}",
        f'[{{"text": "a", "target": "b", "more": {deep}}}]',
        "nested deeper than 100",
    )
    for name, deep in (("lists", "[" * 150 + "]" * 150), ("objects", '{"a":' * 150 + "1" + "}" * 150))
]

HUGE = [
    data(f"a row of {name}", rows_of(row), "item 1", "holds more than")
    for name, row in {
        "thirty thousand fields": {f"k{number}": 1 for number in range(30_000)} | {"text": "a", "target": "b"},
        "fifty thousand turns": {"instruction": "a", "output": "b", "history": [["c", "d"]] * 50_000},
        "thirty thousand tools": _turns() | {"tools": [{"name": "f"}] * 30_000},
        "thirty thousand pictures": {"text": "a", "target": "b", "images": ["x.png"] * 30_000},
        "a question longer than any": {"text": "a " * 2_000_000, "target": "b"},
        "an answer longer than any": {"text": "a", "target": "b" * 5_000_000},
        "a system prompt longer than any": {"system": "a" * 3_000_000, "text": "a", "target": "b"},
    }.items()
]

ALL = [*DEEP, *HUGE, *FILES, *NOT_TEXT, *TURNS, *CALLS, *PICTURES]
