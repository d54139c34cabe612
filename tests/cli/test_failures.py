import pytest

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
