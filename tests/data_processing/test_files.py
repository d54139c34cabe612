import json

import pyarrow
import pyarrow.parquet
import pytest

from lorakit.data_processing.example import Rejected
from lorakit.data_processing.files import RawRow, read_rows
from lorakit.errors import DataError

ROWS = [{"text": "问一", "target": "答一"}, {"text": "问二\u2028行", "target": "答二"}]


@pytest.fixture
def write(tmp_path):
    def write_bytes(content, name="rows.dat"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(file)

    return write_bytes


def fields(name):
    return [row.fields for row in read_rows(name)]


def as_json(rows):
    return json.dumps(rows, ensure_ascii=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize(
    "text",
    [
        as_json(ROWS),
        json.dumps(ROWS, indent=2, ensure_ascii=False),
        "\n".join(as_json(row) for row in ROWS),
        "\r\n".join(as_json(row) for row in ROWS) + "\r\n\r\n",
        as_json({"data": ROWS}),
        json.dumps({"data": ROWS}, indent=1, ensure_ascii=False),
    ],
    ids=["array", "indented array", "lines", "windows lines", "container", "indented container"],
)
def test_json_in_every_shape_and_encoding(write, text, encoding):
    assert fields(write(text.encode(encoding))) == ROWS


def test_csv_with_quotes_line_breaks_and_a_byte_order_mark(write):
    text = '\ufefftext,target\r\n"问，一","答\n一"\r\n问二,答二\r\n'
    assert fields(write(text)) == [{"text": "问，一", "target": "答\n一"}, {"text": "问二", "target": "答二"}]


@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_csv_with_other_delimiters(write, delimiter):
    assert fields(write(f"text{delimiter}target\na{delimiter}b\n")) == [{"text": "a", "target": "b"}]


def test_parquet_is_recognised_by_content(tmp_path):
    file = tmp_path / "rows.json"  # the name does not decide
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*ROWS, {"text": "x", "target": None}]), file)
    assert fields(str(file)) == [*ROWS, {"text": "x"}]


def test_rows_know_where_they_stand(write):
    name = write(as_json(ROWS))
    assert [row.origin for row in read_rows(name)] == [f"{name} item 1", f"{name} item 2"]
    name = write(as_json(ROWS[0]) + "\n\n" + as_json(ROWS[1]))
    assert [row.origin for row in read_rows(name)] == [f"{name} line 1", f"{name} line 3"]


def test_a_broken_line_is_named_and_the_others_are_read(write):
    name = write('{"text": "a", "target": "b"}\n{"text": "a", \n{"text": "c", "target": "d"}\n')
    first, broken, last = read_rows(name)
    assert isinstance(broken, Rejected)
    assert broken.origin == f"{name} line 2"
    assert "not valid JSON" in broken.reason
    assert isinstance(first, RawRow)
    assert last.fields == {"text": "c", "target": "d"}


def test_a_duplicate_key_breaks_its_row_only(write):
    good, broken = read_rows(write('[{"text": "a", "target": "b"}, {"text": "a", "text": "c", "target": "d"}]'))
    assert good.fields == {"text": "a", "target": "b"}
    assert broken.reason == '"text" stands twice'


def test_a_csv_row_of_another_width_is_named(write):
    name = write("text,target\na,b\nonly one\n")
    assert list(read_rows(name))[1] == Rejected(f"{name} row 2", "has 1 cells where the header has 2")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ('[{"text": "a"', "line 1 column 14: is not valid JSON"),
        ("[1, 2", "is not valid JSON"),
        (b"\x00\xff\xfe\x81", "is neither UTF-8 nor GB18030 text"),
        ("just some prose", "is not JSON, JSON Lines, CSV or Parquet"),
        (b"PAR1 damaged", "is a damaged Parquet file"),
        ('text,target\n"open,quote\n', "is not valid CSV"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_an_unreadable_file_is_an_error_with_its_place(write, content, fault):
    name = write(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(name))
    assert caught.value.message.startswith(name)
    assert fault in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["data/none.json", "none.csv", "no such file", "/nowhere/rows.jsonl"])
def test_a_missing_file_is_an_error_and_no_hub_name(name):
    with pytest.raises(DataError, match="there is no such file"):
        list(read_rows(name))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        list(read_rows(str(tmp_path)))


def test_a_hub_name_is_loaded_by_the_datasets_library(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "train.jsonl").write_text(json.dumps({"text": "a", "target": "b"}) + "\n")
    import datasets

    local = datasets.load_dataset  # the real one, on a folder in place of the hub
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, split: local(str(tmp_path / name), split=split, cache_dir=str(tmp_path / "cache")),
    )
    monkeypatch.chdir(tmp_path / "owner")
    assert [row.fields for row in read_rows("owner/name")] == [{"text": "a", "target": "b"}]
    assert [row.origin for row in read_rows("owner/name:train")] == ["owner/name:train row 1"]
    with pytest.raises(DataError, match="neither a file nor a Hub dataset"):
        list(read_rows("owner/name:nosuchsplit"))
