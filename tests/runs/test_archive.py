"""An earlier run is moved aside whole, numbered, and never deleted; what is the user's own is not touched."""

import os

import pytest

from lorakit.errors import RunError
from lorakit.runs import archive, archive_previous_run, finish_archiving


def tree(folder):
    """All files in a folder with their content."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def leave_run(folder, content):
    """Write what a run leaves."""
    files = ("events.jsonl", "run.json", "report.html", "lora_model/adapter.bin", "checkpoint-8/inner/state.json")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return set(files)


def leave_own(folder):
    """Write what only a person would; also where names are much alike."""
    files = ("notes.txt", "checkpoint-best/x", "previous/old/x", "previous/7.txt", "lora_model.older/x", ".lock")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return dict.fromkeys(files, "mine")


def test_earlier_runs_are_numbered_and_what_is_the_user_s_own_stays(tmp_path):
    own = leave_own(tmp_path)
    for number in (1, 2, 3):
        files = leave_run(tmp_path, str(number))
        assert archive_previous_run(tmp_path) == tmp_path / "previous" / str(number)
    kept = {f"previous/{number}/{name}": str(number) for number in (1, 2, 3) for name in files}
    assert tree(tmp_path) == own | kept


def test_a_folder_without_a_run_is_left_alone(tmp_path):
    own = leave_own(tmp_path)
    assert archive_previous_run(tmp_path) is None
    assert tree(tmp_path) == own


def test_an_archive_is_not_written_through_a_link(tmp_path):
    leave_run(tmp_path / "run", "1")
    (tmp_path / "private").mkdir()
    (tmp_path / "run" / "previous").symlink_to(tmp_path / "private")
    with pytest.raises(RunError, match="or a link, where earlier runs are moved to"):
        archive_previous_run(tmp_path / "run")
    assert list((tmp_path / "private").iterdir()) == []


def test_a_file_in_the_way_of_the_archive_is_named(tmp_path):
    leave_run(tmp_path, "1")
    (tmp_path / "previous").write_text("mine")
    with pytest.raises(RunError, match="is a file or a link, where earlier runs are moved to"):
        archive_previous_run(tmp_path)
    assert (tmp_path / "previous").read_text() == "mine"


class KilledError(BaseException):
    """Stands for the end of the process."""


CALLS = ("link", "replace", "unlink", "mkdir", "rename", "rmdir", "fsync")


@pytest.mark.parametrize("has_links", [True, False])
def test_killed_at_any_call_nothing_is_lost_and_the_next_run_ends_it(tmp_path, monkeypatch, has_links):
    point = 0
    while True:
        folder = tmp_path / str(point)
        folder.mkdir()
        own, files = leave_own(folder), leave_run(folder, "1")
        with monkeypatch.context() as patches:
            done = kill_at(patches, point, has_links)
            try:
                archive_previous_run(folder)
            except KilledError:
                pass
            else:
                break
        found = tree(folder)
        for name in files:  # at every moment in one place or in both
            assert "1" in (found.get(name), found.get(f"previous/1/{name}"), found.get(f".lorakit-going-{name}")), done
        finish_archiving(folder)
        if (folder / "run.json").exists():  # not begun: the run can still be resumed
            assert tree(folder).items() >= dict.fromkeys(files, "1").items()
        assert archive_previous_run(folder) in {folder / "previous" / "1", None}
        kept = {f"previous/1/{name}": "1" for name in files}
        found = {name: text for name, text in tree(folder).items() if not name.startswith(".lorakit-going-")}
        assert found == own | kept, done
        point += 1
    assert point > 20


def kill_at(patches, point, has_links):
    """Let the process end in place of the call of this number, among all that change files."""
    done = []

    def patched(name):
        call = getattr(os, name)

        def counted(*arguments, **options):
            if name == "link" and not has_links:
                raise OSError(1, "no links here")
            if len(done) == point:
                raise KilledError
            done.append(name)
            return call(*arguments, **options)

        return counted

    for name in CALLS:
        patches.setattr(os, name, patched(name))
    return done


def test_what_was_written_since_is_not_taken_for_what_stands_in_the_archive(tmp_path, monkeypatch):
    leave_run(tmp_path, "1")
    monkeypatch.setattr(archive, "finish_archiving", lambda folder: None)  # killed before it
    archive_previous_run(tmp_path)
    monkeypatch.undo()
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").write_text("2")  # by another task
    finish_archiving(tmp_path)
    assert not (tmp_path / "lora_model").exists()
    assert (tmp_path / "report.html").read_text() == "2"
    assert (tmp_path / "previous" / "1" / "report.html").read_text() == "1"


def test_what_has_no_end_is_moved_and_not_read(tmp_path):
    """A pipe waits for who writes into it; a file of a terabyte that holds nothing takes no room, and hours to read."""
    leave_run(tmp_path, "1")
    for name, put in (("run.json", os.mkfifo), ("report.html", lambda path: os.truncate(path, 10**12))):
        if name == "run.json":
            (tmp_path / name).unlink()
        put(tmp_path / name)
    archive = archive_previous_run(tmp_path)
    assert (archive / "run.json").is_fifo()
    assert (archive / "report.html").stat().st_size == 10**12
    assert not any(os.path.lexists(tmp_path / name) for name in ("run.json", "report.html", "events.jsonl"))
