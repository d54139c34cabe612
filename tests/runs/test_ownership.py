"""Only what lorakit has written, and nobody has changed since, is written over."""

import os

import pytest

from lorakit.runs import keep_foreign, list_written, write_own_bytes, write_own_json, write_own_text

NAMES = ("report.html", "model")


@pytest.fixture
def run(tmp_path):
    """A run's folder with a file and a folder of lorakit's."""
    write_own_text(tmp_path, "report.html", "all is well")
    aside = tmp_path / "aside"
    (aside / "inner").mkdir(parents=True)
    (aside / "inner" / "weights").write_bytes(b"1234")
    list_written(tmp_path, "model", aside)
    aside.rename(tmp_path / "model")
    write_own_text(tmp_path, "model/README.md", "a card")
    return tmp_path


def kept(run):
    said = []
    keep_foreign(run, NAMES, said.append)
    shelf = run / "previous"
    moved = sorted(path.name for path in (shelf / "1").iterdir()) if shelf.exists() else []
    assert bool(said) == bool(moved)
    return moved


def test_what_lorakit_wrote_stays_where_it_is(run):
    write_own_json(run, "report.html", {"again": True})
    write_own_bytes(run, "model/README.md", b"another card")
    assert kept(run) == []


CHANGES = {
    "a file": (lambda run: (run / "report.html").write_text("mine"), "report.html"),
    "a card": (lambda run: (run / "model" / "README.md").write_text("mine"), "model"),
    "a file within a folder": (lambda run: (run / "model" / "inner" / "weights").write_bytes(b"mine"), "model"),
    "a file more": (lambda run: (run / "model" / "inner" / "notes").write_text("mine"), "model"),
    "a link": (lambda run: (run / "model" / "link").symlink_to(run), "model"),
    "a link that leads nowhere": (lambda run: (run / "model" / "link").symlink_to("nowhere"), "model"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_somebody_has_changed_is_moved_out_of_the_way(run, name):
    change, moved = CHANGES[name]
    change(run)
    assert kept(run) == [moved]


def test_what_nobody_knows_of_is_somebodys(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    os.symlink("nowhere", tmp_path / "model")
    assert kept(tmp_path) == ["model", "report.html"]


@pytest.mark.parametrize("damage", ["", "[]", '{"files": []}', '{"files": {"report.html": 3}}', "{"])
def test_with_a_damaged_list_all_is_somebodys(run, damage):
    (run / ".lorakit-written.json").write_text(damage)
    assert kept(run) == ["model", "report.html"]


def test_a_write_that_is_broken_off_leaves_what_is_known(run, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lorakit.runs.ownership.write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        write_own_text(run, "report.html", "new")
    assert kept(run) == []


def test_a_list_that_is_a_link_out_of_the_folder_is_not_read(run):
    aside = run.with_name("elsewhere.json")
    (run / ".lorakit-written.json").rename(aside)
    (run / ".lorakit-written.json").symlink_to(aside)
    assert kept(run) == sorted(NAMES)
