import bz2
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from lorakit.data_processing.example import Rejected
from lorakit.data_processing.files.opening import RawRow, Reading, read_rows
from lorakit.errors import DataError

ROWS = [
    {"text": "你们几点开门？", "target": "周一到周五早上九点。"},
    {"text": "如何保持良好的睡眠质量？\u2028", "target": "每天在固定的时间上床和起床。"},
]


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
    assert list(read_rows(name))[1] == Rejected(f"{name} row 3", "has 1 cells where the header has 2")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ('[{"text": "a"', "line 1 column 14: is not valid JSON"),
        ("[1, 2", "is not valid JSON"),
        (b"\x00\xff\xfe\x81", "its encoding is in doubt"),
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


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ('[{“text”: "a"}]', 'JSON takes no “ there: write "'),
        ('[{"text"： "a"}]', "JSON takes no ： there: write :"),
        ('[{"text": "a"， "target": "b"}]', "JSON takes no ， there: write ,"),
        ('[{"text": "a"}，{"text": "b"}]', "JSON takes no ， there: write ,"),
        ("[{'text': 'a'}]", "JSON takes no ' there: write \""),
        ('[{"text": "a" "target": "b"}]', "is the file complete? check the place named"),
    ],
)
def test_a_mark_of_another_alphabet_is_named(write, content, hint):
    with pytest.raises(DataError) as caught:
        list(read_rows(write(content)))
    assert caught.value.hint == hint


@pytest.mark.parametrize("header", ["问题", "question", '"text"'])
def test_a_table_of_one_column_has_its_rows(write, header):
    name = header.strip('"')
    rows = list(read_rows(write(f'{header}\n你好\n"a, b"\nc, d\n')))
    assert [row.fields for row in rows[:2]] == [{name: "你好"}, {name: "a, b"}]
    assert rows[2].reason == "has 2 cells where the header has 1"


@pytest.mark.parametrize("name", ["data/none.json", "none.csv", "no such file", "/nowhere/rows.jsonl"])
def test_a_missing_file_is_an_error_and_no_hub_name(name):
    with pytest.raises(DataError, match="there is no such file"):
        list(read_rows(name))


def test_a_folder_without_rows_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="is a folder without files of rows"):
        list(read_rows(str(tmp_path)))


def test_a_hub_name_is_loaded_by_the_datasets_library(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "train.jsonl").write_text(json.dumps({"text": "a", "target": "b"}) + "\n")
    import datasets

    local = datasets.load_dataset  # the real one, on a folder in place of the hub
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda repository, /, **named: local(str(tmp_path / repository), **named, cache_dir=str(tmp_path / "cache")),
    )
    monkeypatch.chdir(tmp_path / "owner")
    assert [row.fields for row in read_rows("owner/name")] == [{"text": "a", "target": "b"}]
    assert [row.origin for row in read_rows("owner/name:train")] == ["owner/name:train row 1"]
    with pytest.raises(DataError, match="neither a file nor a Hub dataset"):
        list(read_rows("owner/name:nosuchsplit"))


def test_a_hub_dataset_s_pictures_come_as_bytes_and_a_few_rows_are_streamed(tmp_path, monkeypatch):
    import datasets
    from PIL import Image

    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    features = datasets.Features({"text": datasets.Value("string"), "images": [datasets.Image()]})
    rows = {"text": ["q", "r"], "images": [[str(tmp_path / "a.png")], []]}
    made = datasets.Dataset.from_dict(rows, features=features)
    asked = []

    def load(repository, /, **named):
        asked.append(named)
        return made.to_iterable_dataset() if named.get("streaming") else made

    monkeypatch.setattr(datasets, "load_dataset", load)
    [row] = read_rows("owner/name:test", Reading(configuration="main", most=1))
    assert row.fields["images"][0].keys() & {"bytes", "path"}
    assert asked == [{"split": "test", "name": "main", "streaming": True}]
    assert [row.fields.get("images") for row in read_rows("owner/name")][1] == []


SHEET = [["text", "target"], ["你好？", "好的。"], [None, None], ["q", 3]]


def test_a_spreadsheet_is_read_with_the_numbers_that_it_shows(tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    for cells in SHEET:
        book.active.append(cells)
    book.save(tmp_path / "rows.xlsx")
    rows = list(read_rows(str(tmp_path / "rows.xlsx")))
    assert [(row.fields, row.origin.rpartition(" ")[2]) for row in rows] == [
        ({"text": "你好？", "target": "好的。"}, "2"),
        ({"text": "q", "target": 3}, "4"),
    ]


def test_a_title_above_the_header_of_a_spreadsheet_is_named(tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    for cells in (["Questions and answers of 2026"], ["text", "target"], ["q", "a"]):
        book.active.append(cells)
    book.active.merge_cells("A1:B1")
    book.save(tmp_path / "rows.xlsx")
    rows = list(read_rows(str(tmp_path / "rows.xlsx")))
    assert [row.reason for row in rows] == ["has cells beyond the header's 1"] * 2
    assert "delete titles above it" in rows[0].hint


@pytest.mark.parametrize("ending", ["gz", "bz2", "zst"])
def test_packed_files_are_read_by_content(write, ending):
    import pyarrow

    plain = as_json(ROWS).encode()
    kinds = {"gz": gzip.compress, "bz2": bz2.compress, "zst": lambda raw: bytes(pyarrow.compress(raw, "zstd"))}
    if ending == "zst":  # as the zstd program writes it, with its own frame
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(plain)
        assert fields(write(sink.getvalue().to_pybytes())) == ROWS
    else:
        assert fields(write(kinds[ending](plain))) == ROWS


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"BZh9", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"])
def test_a_damaged_packed_file_is_an_error(write, magic):
    with pytest.raises(DataError, match="damaged"):
        fields(write(magic + b"xxxxxxxxxxxx"))


def test_a_folder_gives_the_rows_of_its_files_by_name(tmp_path, capsys):
    (tmp_path / "b.jsonl").write_text(as_json(ROWS[1]) + "\n")
    (tmp_path / "a.json").write_text(as_json(ROWS[:1]))
    (tmp_path / "README.md").write_text("x")
    rows = list(read_rows(str(tmp_path)))
    assert [row.fields for row in rows] == ROWS
    assert rows[0].origin == f"{tmp_path / 'a.json'} item 1"
    assert rows[0].folder == tmp_path
    assert "not read: README.md" in capsys.readouterr().err.replace("\n", " ")


ROW = {"text": "q", "target": "a"}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('[{"text": "q", "target": "a",},]', [ROW]),
        ('[{"text": "a,]", "target": "a",}]', [{"text": "a,]", "target": "a"}]),
        ('{"text": "q", "target": "a"},\n{"text": "q", "target": "a"}\n', [ROW, ROW]),
        ('{\n "text": "q",\n "target": "a"\n}\n{\n "text": "q",\n "target": "a"\n}\n', [ROW, ROW]),
        ('\ufeff{"text": "q", "target": "a"}\n\ufeff{"text": "q", "target": "a"}\n', [ROW, ROW]),
        ("\ttext\ttarget\n0\tq\ta\n1\tr\tb\n", [{**ROW, "index": "0"}, {"text": "r", "target": "b", "index": "1"}]),
        ("Frage, kurz;text;target\n1;q;a\n", [{"Frage, kurz": "1", **ROW}]),
        ("text;target\n1,5;2,5\nq;a\n", [{"text": "1,5", "target": "2,5"}, ROW]),
        ("sep=|\ntext|target\nq|a\n", [ROW]),
        ("\r\n\r\ntext,target\r\nq,a\r\n", [ROW]),
        (",text,target\nx,q,a\n", [{"column 1": "x", **ROW}]),
    ],
)
def test_what_people_and_programs_write_nearly_right_is_read(write, text, rows):
    assert fields(write(text)) == rows


def test_numbers_are_the_text_that_was_written(write):
    [row] = fields(write('{"text": "price", "target": 1.10}'))
    assert str(row["target"]) == "1.10"
    assert row["target"] == 1.1


@pytest.mark.parametrize("cell", ["null", "N/A", "NaN", "#N/A", "NA"])
def test_a_cell_that_says_it_has_no_value_is_no_answer(write, cell):
    [row] = fields(write(f"text,target\nq,{cell}\n"))
    assert row["target"] != row["target"]  # not a number


def test_broken_objects_of_several_lines_are_named_and_the_others_are_read(write):
    name = write('{\n "text": "q",\n "target": "a"\n}\n{\n "text": q\n}\n{\n "text": "q",\n "target": "a"\n}\n')
    first, broken, last = read_rows(name)
    assert (broken.origin, broken.reason) == (f"{name} line 5", "is not valid JSON (Expecting value)")
    assert first.fields == last.fields == ROW


def test_what_carries_meaning_beside_a_list_of_rows_stops_the_run(write):
    with pytest.raises(DataError, match='"system" beside the list "data" would not be trained'):
        list(read_rows(write('{"system": "Be brief.", "data": [{"text": "q", "target": "a"}]}')))


def test_the_rule_of_a_table_in_markdown_is_no_row(write):
    [row] = read_rows(write("| text | target |\n|:---|----|\n| q | a |\n"))
    assert (row.fields["text"], row.fields["target"]) == ("q", "a")
    _, second = read_rows(write("text|target\nq|a\n---|-\n"))
    assert second.fields == {"text": "---", "target": "-"}


def test_what_stands_beside_a_list_of_rows_is_named(write, capsys):
    list(read_rows(write('{"train": [], "test": [1], "version": 2}')))
    assert '"test" beside the list "train" is not used' in capsys.readouterr().err.replace("\n", "")


def test_more_rows_than_a_machine_can_count_are_all_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "target": "b"}\n' * 3)
    assert len(list(read_rows(str(tmp_path / "rows.jsonl"), Reading(most=10**30)))) == 3
