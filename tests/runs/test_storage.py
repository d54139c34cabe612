"""Files and folders are whole or not there, and nobody else's are touched."""

import os
import shutil
from contextlib import suppress

import pytest

from lorakit.runs import (
    clear_working_folder,
    discard,
    place_folder,
    settle_folder,
    settle_folders,
    working_folder,
    write_text,
)


def write(folder, content):
    (folder / "inner").mkdir(parents=True)
    for name in ("a", "inner/b"):
        (folder / name).write_text(content)


def content_of(folder):
    """The one content of all files; None where there is no folder."""
    if not folder.exists():
        return None
    texts = {path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert len(list(folder.rglob("*"))) == 3, "half a folder"
    [text] = texts
    return text


class KilledError(BaseException):
    """Stands for the end of the process."""


def kill_at(patches, point):
    done = []

    def patched(module, name):
        call = getattr(module, name)

        def counted(*arguments, **options):
            if len(done) == point:
                raise KilledError
            done.append(name)
            return call(*arguments, **options)

        patches.setattr(module, name, counted)

    for name in ("replace", "unlink", "rmdir", "fsync"):
        patched(os, name)
    return done


@pytest.mark.parametrize("stands", [True, False])
def test_killed_at_any_call_the_old_folder_or_the_new_one_is_there_and_the_next_process_goes_on(
    tmp_path, monkeypatch, stands
):
    point = 0
    while True:
        root = tmp_path / str(point)
        target = root / "lora_model"
        root.mkdir()
        own = {name: root / name for name in ("lora_model.older", "lora_model.writing", "lora_model.unproven")}
        for folder in own.values():
            write(folder, "mine")
        if stands:
            write(target, "old")
        write(working_folder(target), "new")
        with monkeypatch.context() as patches:
            done = kill_at(patches, point)
            try:
                place_folder(target)
            except KilledError:
                pass
            else:
                break
        settle_folder(target)
        assert content_of(target) in ({"old", "new"} if stands else {None, "new"}), done
        write(clear_working_folder(target), "newer")
        place_folder(target)
        assert content_of(target) == "newer"
        assert all(content_of(folder) == "mine" for folder in own.values())
        assert sorted(path.name for path in root.iterdir()) == sorted([target.name, *own])
        point += 1
    assert point > 5
    assert content_of(target) == "new"


def test_a_folder_that_is_deleted_is_never_seen_in_part(tmp_path, monkeypatch):
    for point in range(8):
        folder = tmp_path / str(point) / "checkpoint-3"
        write(folder, "old")
        with monkeypatch.context() as patches:
            kill_at(patches, point)
            with suppress(KilledError):
                discard(folder)
        assert content_of(folder) in {None, "old"}
        settle_folders(folder.parent, "checkpoint-*")
        assert content_of(folder) in {None, "old"}
        assert {path.name for path in folder.parent.iterdir()} <= {"checkpoint-3"}


def test_a_link_to_a_folder_elsewhere_is_replaced_and_what_it_leads_to_stays(tmp_path):
    write(tmp_path / "elsewhere", "mine")
    target = tmp_path / "lora_model"
    target.symlink_to(tmp_path / "elsewhere")
    write(clear_working_folder(target), "new")
    place_folder(target)
    assert content_of(target) == "new"
    assert not target.is_symlink()
    assert content_of(tmp_path / "elsewhere") == "mine"
    shutil.rmtree(target)


def test_a_link_in_the_place_of_what_is_written_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("whole")
    for name in ("results.json", ".lorakit-writing-results.json"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    write_text(tmp_path / "results.json", "new")
    assert (tmp_path / "precious").read_text() == "whole"
    assert not (tmp_path / "results.json").is_symlink()
    assert (tmp_path / "results.json").read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes")
def test_a_pipe_in_the_place_of_a_folder_is_replaced_and_not_waited_for(tmp_path):
    target = tmp_path / "checkpoint-3"
    for name in ("checkpoint-3", ".lorakit-writing-checkpoint-3", ".lorakit-older-checkpoint-3"):
        os.mkfifo(tmp_path / name)
    written = clear_working_folder(target)
    written.mkdir()
    (written / "x").write_text("whole")
    place_folder(target)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
    assert (target / "x").read_text() == "whole"


def test_no_secret_is_written(tmp_path):
    write_text(tmp_path / "x.json", '{"a": "hf_abcdefghijklmnopqrstuvwx", "b": "sk-0123456789abcdef0123"}')
    assert (tmp_path / "x.json").read_text() == '{"a": "hf_...", "b": "sk-..."}'
