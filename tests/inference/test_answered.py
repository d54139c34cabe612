"""A file of answers that an earlier run has left is gone on with only where it is one, and to these questions."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from lorakit.errors import LorakitError
from lorakit.inference.questions import ANSWER_KEY, _answered, _opened
from lorakit.outgoing import strict_json

QUESTIONS = [SimpleNamespace(fields={"text": text}) for text in ("a", "b")]


def left(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_whole_answers_are_counted_and_a_half_written_one_is_cut_off(tmp_path):
    file = tmp_path / "answers.jsonl"
    assert _answered(file, QUESTIONS) == 0
    file.write_bytes(left({"text": "a", ANSWER_KEY: "x"}) + b'{"text": "b", "')
    assert _answered(file, QUESTIONS) == 1
    assert file.read_bytes() == left({"text": "a", ANSWER_KEY: "x"})


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\r"])
def test_a_line_ends_where_json_lines_end_and_nowhere_else(tmp_path, character):
    file, text = tmp_path / "answers.jsonl", f"a{character}b"
    file.write_text(strict_json({"text": text, ANSWER_KEY: text}) + "\n", encoding="utf-8", newline="\n")
    assert _answered(file, [SimpleNamespace(fields={"text": text})]) == 1


REFUSED = {
    b"no answers\n": "is not JSON Lines",
    b"[" * 100_000 + b"\n": "is not JSON Lines",
    b"\xff\xfe\n": "is not JSON Lines",
    b"5\n": "holds answers to other questions",
    b"[]\n": "holds answers to other questions",
    left({"text": "another"}): "holds answers to other questions",
    left({"text": "a"}, {"text": "b"}, {"text": "c"}): "holds more answers than there are questions",
}


@pytest.mark.parametrize("content", REFUSED, ids=[f"{number} {words}" for number, words in enumerate(REFUSED.values())])
def test_a_file_that_is_none_is_refused_and_left_as_it_is(tmp_path, content):
    file = tmp_path / "answers.jsonl"
    file.write_bytes(content)
    with pytest.raises(LorakitError, match=REFUSED[content]) as caught:
        _answered(file, QUESTIONS)
    assert "set answer_file, or remove that file" in str(caught.value)
    assert file.read_bytes() == content


def test_half_a_character_is_written_as_json_has_it(tmp_path):
    file = tmp_path / "answers.jsonl"
    with _opened(file) as stream:
        stream.write('{"text": "\ud800"}\n')
    assert json.loads(file.read_text(encoding="utf-8")) == {"text": "\ud800"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes")
def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "answers.jsonl")
    assert _answered(tmp_path / "answers.jsonl", QUESTIONS) == 0
    with pytest.raises(LorakitError, match="answer_file: "), _opened(tmp_path / "answers.jsonl"):
        pass


def test_a_file_in_a_folder_that_is_not_there_is_refused(tmp_path):
    refused = pytest.raises(LorakitError, match=r"answer_file: .*No such file or directory")
    with refused, _opened(tmp_path / "nowhere" / "answers.jsonl"):
        pass


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a disk that is always full")
def test_a_disk_that_is_full_is_said_of_the_file():
    with pytest.raises(LorakitError, match="answer_file: /dev/full: No space left"), _opened(Path("/dev/full")) as file:
        file.write("x")


def test_a_fault_of_another_file_is_not_said_of_this_one(tmp_path):
    with pytest.raises(FileNotFoundError), _opened(tmp_path / "answers.jsonl"):
        (tmp_path / "picture.png").read_bytes()
