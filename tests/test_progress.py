"""Nothing is silent: what a person and a log file see of work under way."""

import io
import threading

import pytest
from rich.console import Console

from lorakit import console
from lorakit.console import streams
from lorakit.console import under_way as module


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for cached in (streams.out, streams.err, streams.manner, module.display):
        cached.cache_clear()
    yield
    for cached in (streams.out, streams.err, streams.manner, module.display):
        cached.cache_clear()


@pytest.fixture
def ticks(monkeypatch):
    """Let dots come as fast as they can; return a function that waits for so many."""
    monkeypatch.setattr(module, "_BETWEEN_DOTS_SECONDS", 0.001)
    seen = threading.Semaphore(0)
    write = module.Display._write

    def written(self, text):
        write(self, text)
        if text.endswith("."):
            seen.release()

    monkeypatch.setattr(module.Display, "_write", written)

    def wait(count):
        while seen.acquire(blocking=False):  # dots from before
            pass
        for _ in range(count):
            assert seen.acquire(timeout=10)

    return wait


def test_in_a_file_work_adds_dots_to_a_line_with_its_name(ticks, capsys):
    with console.progress(20, "answering") as bar:
        ticks(3)
        bar.update(8)
    said = capsys.readouterr().err
    assert said.startswith("answering ...")
    assert said.endswith(" 8/20  0:00\n")


def test_a_message_begins_a_line_of_its_own(ticks, capsys):
    with console.progress(None, "loading"):
        ticks(2)
        console.note("a note")
        console.warn("a warning")
    lines = capsys.readouterr().err.splitlines()
    assert "a note" in lines
    assert "warning: a warning" in lines
    assert all(line.startswith(("loading .", "a note", "warning: a")) for line in lines)


def test_the_innermost_work_is_named_and_then_what_it_is_a_part_of(ticks, capsys):
    with console.progress(None, "outer"):
        ticks(1)
        with console.progress(None, "inner"):
            ticks(1)
        ticks(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["outer", "inner", "outer"]


def test_no_thread_is_left_when_all_work_is_done(ticks):
    def ticking():  # threads of libraries come and go
        return [thread for thread in threading.enumerate() if "_tick" in thread.name]

    for thread in ticking():
        thread.join(timeout=10)
    with console.progress(None, "loading"), console.progress(3, "reading"):
        assert len(ticking()) == 1
    for thread in ticking():
        thread.join(timeout=10)
    assert not ticking()


def test_a_silent_process_shows_no_progress(capsys):
    console.silence()
    with console.progress(3, "training"):
        assert module.display()._ticker is None
    assert capsys.readouterr().err == ""


def test_in_a_terminal_a_line_moves_and_goes(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(module, "err", lambda: terminal)
    with console.progress(4, "training") as bar:
        bar.update(2, "loss 1.234")
    drawn = terminal.file.getvalue()
    assert "training" in drawn
    assert "loss 1.234" in drawn
    assert "2/4" in drawn
    assert drawn.rstrip().endswith(("\x1b[2K", "\x1b[?25h"))  # erased


def test_details_are_said_only_where_they_are_asked_for(capsys):
    console.detail("inside")
    console.details("in detail", [("a", "b")])
    assert capsys.readouterr().err == ""
    console.speak(is_verbose=True)
    console.detail("inside")
    console.details("in detail", [("a", "b")])
    assert capsys.readouterr().err == "inside\nin detail\n  a  b\n"


def test_at_80_columns_facts_go_on_below_their_beginning(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=40, color_system=None)
    monkeypatch.setattr(console, "_out", lambda: terminal)
    console.facts("plan", [("memory", "one two three four five six seven eight"), ("时间", "短")], console.result)
    assert terminal.file.getvalue().splitlines() == [
        "plan",
        "  memory  one two three four five six",
        "          seven eight",
        "  时间    短",
    ]


def test_a_command_is_never_broken(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=30, color_system=None)
    monkeypatch.setattr(console, "_err", lambda: terminal)
    command = "lorakit --task inference --output_dir " + "x" * 40
    console.suggest("ask it", command)
    assert terminal.file.getvalue() == f"ask it:\n  {command}\n"


def test_without_colour_nothing_is_bold_either(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert streams.err().color_system is None
    assert streams.out().color_system is None
