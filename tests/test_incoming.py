"""Only regular files are read, of bounded size, and none is waited for."""

import os

import pytest

from lorakit.incoming import open_file, read_json, read_whole


def test_a_file_is_read_to_its_end(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert read_whole(tmp_path / "x", most_bytes=3) == b"abc"
    with pytest.raises(OSError, match="has more than 2 bytes"):
        read_whole(tmp_path / "x", most_bytes=2)


STRANGE = {
    "a pipe": (os.mkfifo, "is a device, a pipe or a socket"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, a pipe or a socket"),
    "a folder": (os.mkdir, "directory|device"),
    "a circle": (lambda path: path.symlink_to(path), "symbolic links"),
    "nothing": (lambda path: None, "No such file"),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes")
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_is_refused_without_waiting(tmp_path, kind):
    make, words = STRANGE[kind]
    make(tmp_path / "x")
    with pytest.raises(OSError, match=words):
        open_file(tmp_path / "x", 10)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_json_is_one_kind_of_error(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "x")
