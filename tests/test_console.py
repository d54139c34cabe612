import io
import os

import pytest

from lorakit import console
from lorakit.errors import DataError, OutputError
from lorakit.runs import explaining_write_errors


@pytest.fixture(autouse=True)
def fresh_consoles():
    """Consoles remember the stream they were made for; every test captures its own."""
    console._out.cache_clear()
    console._err.cache_clear()
    yield
    console._out.cache_clear()
    console._err.cache_clear()


def test_results_and_notes_take_different_ways_out(capsys):
    console.result("answer [bold]")
    console.note("note [bold]")
    console.warn("careful [bold]")
    output = capsys.readouterr()
    assert output.out == "answer [bold]\n"
    assert output.err == "note [bold]\nwarning: careful [bold]\n"


def test_without_colour_trained_tokens_stand_in_brackets(capsys):
    console.marked([console.MarkedText("问", False), console.MarkedText("答", True)])
    assert capsys.readouterr().out == "问|[答]\n"


def test_a_table_outside_a_terminal_keeps_long_cells_whole(capsys):
    console.table("t", ["a", "b"], [["x" * 100, "y" * 100]])
    shown = capsys.readouterr().out
    assert shown.count("x") == shown.count("y") == 100


def test_names_of_files_and_fields_are_no_markup(capsys):
    console.table("fields of [/x].json", ["[bold]", "rows"], [["[/y]", "1"]])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("[/x].json", "[bold]", "[/y]"))


def test_a_silent_process_prints_nothing(capsys):
    console.silence()
    console.result("x")
    console.note("x")
    assert capsys.readouterr() == ("", "")


def test_a_prompt_in_a_pipe_goes_to_standard_error(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("question\r\n"))
    assert console.prompt("label: ") == "question"
    with pytest.raises(EOFError):
        console.prompt("label: ")
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "label: \nlabel: \n")


def test_a_reader_who_leaves_does_not_end_a_task(monkeypatch):
    """As after ``| head``: rich would end the program, and a training with it."""
    read, write = os.pipe()
    with open(write, "w", encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        os.close(read)
        console.result("nobody reads this")
        console.result("nor this")
        assert console._out().quiet


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device here")
@pytest.mark.parametrize(
    "say",
    [
        lambda: console.result("x"),
        lambda: console.table("t", ["a"], [["x"]]),
        lambda: console.marked([console.MarkedText("x", True)]),
        lambda: console.stream("x"),
        lambda: console.facts("t", [("a", "x")], console.result),
        lambda: console.suggest("go on", "x", console.result),
    ],
)
def test_a_full_disk_below_standard_output_is_blamed_on_standard_output(monkeypatch, say, tmp_path):
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        fault = r"standard output cannot be written \(No space left on device\)"
        with pytest.raises(OutputError, match=fault), explaining_write_errors(tmp_path, "make room"):
            say()
        say()  # into nothing: one complaint is enough


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device here")
def test_notes_that_nobody_can_be_told_do_not_end_a_task(monkeypatch):
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        console.note("x")
        console.warn("x")
        console.suggest("go on", "x")


def test_a_line_that_never_ends_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(console, "LONGEST_LINE", 10)
    monkeypatch.setattr(console, "_MOST_SKIPPED", 100)
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 99 + "\nnext\n" + "x" * 200))
    with pytest.raises(console.LongLineError, match="standard input: a line has more than"):
        console.read_line()
    assert console.read_line() == "next\n"
    with pytest.raises(DataError, match="standard input: a line that never ends"):
        console.read_line()
