import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest
from conftest import ROOT

import lorakit.preview
from lorakit.cli import main
from lorakit.cli.failures import report_internal_error


@pytest.fixture
def failing(monkeypatch, tmp_path):
    """Return a function that runs a task in which an error happens."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "empty.yaml").write_text("")

    def run(error, *more):
        def fail(config):
            raise error

        monkeypatch.setattr(lorakit.preview, "run", fail)
        output = ["--output_dir", str(tmp_path / "out")]
        return main(["--task", "preview", "--config", str(tmp_path / "empty.yaml"), *output, *more])

    return run


def test_an_internal_error_is_a_short_report_and_a_log_in_the_runs_folder(failing, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert failing(TypeError("no such\nthing")) == 1
    report, hint = capsys.readouterr().err.splitlines()
    assert report.startswith("internal error: TypeError: no such thing (lorakit/cli/__init__.py line ")
    log = tmp_path / "out" / "lorakit-error.log"
    assert hint == f"hint: this is a fault of lorakit; the full log is in {log}; please report it with that file"
    text = log.read_text()
    for part in ("Traceback", "TypeError: no such", "torch ", "Python 3.", "--task preview"):
        assert part in text


def test_a_folder_that_is_not_there_is_not_made_for_a_log(failing, tmp_path, capsys):
    assert failing(KeyError("x")) == 1
    assert str(tmp_path / "temporary" / "lorakit-error.log") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_log_that_cannot_be_written_does_not_hide_the_error(failing, tmp_path, capsys):
    for folder in ("out", "temporary"):
        (tmp_path / folder / "lorakit-error.log").mkdir(parents=True)
    assert failing(ValueError("x")) == 1
    assert "LORAKIT_DEBUG=1" in capsys.readouterr().err


def test_the_traceback_is_shown_where_it_is_asked_for(failing, monkeypatch, capsys):
    monkeypatch.setenv("LORAKIT_DEBUG", "1")
    assert failing(ValueError("x")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_log_that_will_be_sent_to_somebody_holds_no_token(failing, tmp_path):
    token = "hf_" + "abcdefgh" * 4
    (tmp_path / "out").mkdir()
    error, argv = ValueError(f"refused {token}"), [f"--set=trainer_args={{hub_token: {token}}}"]
    assert report_internal_error(error, argv, str(tmp_path / "out")) == 1
    text = (tmp_path / "out" / "lorakit-error.log").read_text()
    assert "hub_token: hf_..." in text
    assert token not in text


@pytest.mark.parametrize("place", ["out", "temporary"])
def test_a_log_does_not_follow_a_link_that_somebody_has_laid(failing, tmp_path, place):
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / "precious").write_text("whole")
    (tmp_path / place / "lorakit-error.log").symlink_to(tmp_path / "precious")
    assert failing(ValueError("x")) == 1
    log = tmp_path / place / "lorakit-error.log"
    assert (tmp_path / "precious").read_text() == "whole"
    assert not log.is_symlink()
    assert "ValueError" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("error", [MemoryError(), type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")])
def test_too_little_memory_is_no_internal_error(failing, error, capsys):
    assert failing(error) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory")
    assert "lower max_length" in said


def test_an_interrupt_is_no_error(failing, capsys):
    assert failing(KeyboardInterrupt()) == 130
    assert "internal error" not in capsys.readouterr().err


PANIC = type("PanicException", (BaseException,), {})
OF_THE_MACHINE = [
    (RuntimeError("std::bad_alloc"), "out of memory"),
    (RuntimeError("could not create a memory object"), "out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"), "out of memory"),
    (OSError(28, "No space left on device"), "standard input or output: No space left on device"),
    (OSError(28, "No space left on device", "out/x.json"), "out/x.json: No space left on device"),
    (IsADirectoryError(21, "Is a directory", "out/.lock"), "out/.lock: Is a directory"),
    (NotADirectoryError(20, "Not a directory", "x"), "x: Not a directory"),
    (PermissionError(13, "Permission denied", "x"), "x: Permission denied"),
    (OSError(36, "File name too long", "x" * 6000), "File name too long"),
    (Exception("WordPiece error: Missing [UNK] token"), "has given up (WordPiece error"),
    (PANIC("called `Option::unwrap()` on a `None` value"), "has given up (called `Option::unwrap()`"),
]


@pytest.mark.parametrize(("error", "words"), OF_THE_MACHINE, ids=[words for _, words in OF_THE_MACHINE])
def test_what_the_machine_or_a_library_in_rust_gives_up_is_no_internal_error(failing, error, words, capsys):
    assert failing(error) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
    assert "hint: " in said
    assert len(said) < 2000


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_a_stream_that_is_closed_does_not_end_a_run(failing, monkeypatch, name):
    monkeypatch.setattr(f"sys.{name}", None)
    assert failing(KeyError("x")) == 1


def test_an_interrupt_before_anything_is_imported_is_quiet(monkeypatch):
    from lorakit.__main__ import run

    def interrupted(name, *rest, **more):
        if name == "lorakit.cli":
            raise KeyboardInterrupt
        return imported(name, *rest, **more)

    imported, ignored = __import__, []
    monkeypatch.setattr("signal.signal", lambda number, handler: ignored.append((number, handler)))
    monkeypatch.setattr("builtins.__import__", interrupted)
    assert run() == 130
    assert ignored[-1] == (signal.SIGINT, signal.SIG_IGN)  # pressed again, it meets no half of an interpreter


def test_a_python_without_the_packages_says_how_to_start_instead(tmp_path):
    outcome = subprocess.run(
        [sys.executable, "-S", str(ROOT / "main.py"), "--task", "train"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 2
    fault, hint = outcome.stderr.splitlines()
    assert fault.startswith(f"error: this Python ({sys.executable}) has no package ")
    assert hint.startswith("hint: ")
    assert "internal error" not in outcome.stderr


def test_a_package_that_is_missing_later_is_told_in_the_same_way(monkeypatch, capsys):
    from lorakit import __main__, cli

    def missing(task):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, "_run_of", missing)
    monkeypatch.setattr("sys.argv", ["main.py", "--task", "preview", "--config", str(ROOT / "config.yaml")])
    assert __main__.run() == 2
    assert "has no package torch, which lorakit needs\nhint: " in capsys.readouterr().err


def test_the_python_of_a_set_up_is_named_as_it_is_pasted(tmp_path, monkeypatch):
    from lorakit import __main__

    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(__main__, "_root", lambda: str(tmp_path))
    monkeypatch.setattr("sys.argv", ["main.py", "--task", "train"])
    assert __main__._other_python().endswith(": .venv/bin/python main.py --task train")


def test_an_output_without_chinese_says_so_once(capsys):
    import io

    from lorakit.cli import _open_streams

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        _open_streams()
        stream.write("答案 a\n答案 b\n")
        stream.flush()
    assert stream.buffer.getvalue() == b"?? a\n?? b\n"
    said = capsys.readouterr().err
    assert said.count("lacks some characters, which are shown as ?") == 1
    assert "hint: set PYTHONIOENCODING=utf-8" in said


@pytest.mark.parametrize("task", ["inference", "preview", "advise", "merge", "export", "push"])
def test_what_processes_would_each_do_in_full_is_refused_with_one_message(task, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "empty.yaml").write_text("")
    with monkeypatch.context() as patches:
        patches.setattr("lorakit.cli._telling", lambda: nullcontext(True))  # there is no other one here
        assert main(["--task", task, "--config", str(tmp_path / "empty.yaml")]) == 2
    assert f"error: {task}: is done by one process, and 2 were started" in capsys.readouterr().err
