"""Rows that are kept for the next start are those of the file, or are read anew."""

import json
import os

import numpy as np
import pytest
from conftest import family_tokenizer

from lorakit.config import Config
from lorakit.config.loading import make_config
from lorakit.data_processing import ChatFormat, kept_rows, load_dataset, load_training
from lorakit.data_processing.overview import warnings
from lorakit.errors import DataError

CHAT_FORMAT = ChatFormat(family_tokenizer("qwen3"))


@pytest.fixture(autouse=True)
def _small_files_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_rows, "_LEAST_BYTES", 1)
    monkeypatch.setattr(kept_rows, "_LEAST_ROWS", 1)


@pytest.fixture
def is_read(monkeypatch):
    """Whether the last load has read its files."""
    read = []
    own = kept_rows.read_all
    monkeypatch.setattr(kept_rows, "read_all", lambda *given: (read.append(True), own(*given))[1])

    def was_read():
        found = bool(read)
        read.clear()
        return found

    return was_read


ROWS = [
    {"text": "How far?", "target": "Nine miles.", "mood": "calm", "id": 1},
    {"text": "How far?", "target": "Ten miles.", "mood": "calm", "id": 2},
    {"text": "q", "target": ""},
    {"text": "How far?", "target": "Nine miles.", "id": 4},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>\nx\n</think>\n\ny"}]},
    {"text": "far " * 90, "target": "Nine."},
]


def load(name, chat_format=CHAT_FORMAT, **settings):
    return load_dataset(name, Config(max_length=100, **settings), chat_format)


def everything(dataset):
    more = (dataset.duplicates, dataset.contradictions, dataset.cut, dataset.tokens, dataset.targets, dataset.longest)
    return list(dataset.examples), list(dataset.encoded), dataset.rejected, dataset.fields, warnings(dataset), more


def test_a_second_start_has_the_same_rows_and_the_same_words(write_rows, is_read, capsys):
    name = write_rows(ROWS)
    first = everything(load(name))
    assert is_read()
    assert all([first[2], *first[5]])  # rejected, doubled, contradicted, cut
    said = capsys.readouterr().err
    assert everything(load(name)) == first
    assert not is_read()
    assert capsys.readouterr().err.replace("\n", " ").startswith(said.replace("\n", " ") + "5 rows as read before")


def test_what_was_said_of_a_file_is_said_again(tmp_path, capsys):
    file = tmp_path / "rows.csv"
    file.write_bytes(b"text;target\n" + "Grüße für schöne Äpfel;Größe und Wärme, natürlich\n".encode("cp1252") * 9)
    load(str(file))
    said = capsys.readouterr().err
    assert "cp1252" in said
    load(str(file))
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 90},
        {"system_prompt": "Be brief."},
        {"map_fields": {"mood": "system"}},
        {"ignore_fields": ["mood"]},
        {"train_turns": "last"},
        {"max_rows": 2},
        {"text_field": "target", "target_field": "text"},
        {"train_reasoning": False},
    ],
)
def test_other_settings_read_anew(write_rows, is_read, change):
    name = write_rows(ROWS)
    load(name)
    is_read()
    load_dataset(name, Config(**{"max_length": 100, **change}), CHAT_FORMAT)
    assert is_read()


def test_other_content_another_tokenizer_or_template_read_anew(write_rows, is_read):
    name = write_rows(ROWS)
    load(name)
    is_read()
    template = family_tokenizer("qwen3")
    template.chat_template = template.chat_template.replace("user", "User")
    others = [ChatFormat(family_tokenizer("gpt2")), ChatFormat(template), ChatFormat(family_tokenizer("qwen3"))]
    others.append(others.pop().allowing(["<|im_start|>"]))
    for other in others:
        load(name, other)
        assert is_read()
    write_rows([*ROWS, {"text": "new", "target": "row"}])
    assert len(load(name).examples) == 6
    assert is_read()


@pytest.mark.parametrize("file", ["ids.bin", "trained.bin", "texts.bin", "rows.json", "flags.bin"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_what_is_damaged_is_read_anew(write_rows, tmp_path, is_read, file, damage):
    name = write_rows(ROWS)
    first = everything(load(name))
    [place] = (tmp_path / "cache" / "rows").iterdir()
    content = bytearray((place / file).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        os.unlink(place / file)
    else:
        (place / file).write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    is_read()
    assert everything(load(name)) == first
    assert is_read()
    assert everything(load(name)) == first
    assert not is_read()


def test_what_cannot_be_used_is_refused_again(write_rows):
    name = write_rows([{"text": "q", "target": "a", "context": "c"}])
    for _ in range(2):
        with pytest.raises(DataError, match="would not be trained"):
            load(name)


def test_a_cache_that_cannot_be_written_costs_time_only(write_rows, monkeypatch, tmp_path, capsys):
    name = write_rows(ROWS)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "file" / "below"))
    assert len(load(name).examples) == 5
    assert "rows are kept in memory" in capsys.readouterr().err


def test_a_mixture_and_a_share_are_drawn_the_same_from_what_is_kept(write_rows, is_read):
    files = [write_rows([{"text": f"{n} {i}", "target": "a"} for i in range(20)], f"{n}.json") for n in "ab"]
    config = make_config({"train_file": [files[0], {"path": files[1], "weight": 1.5}], "validation_share": 0.2}, "here")
    first = load_training(config, CHAT_FORMAT, None)
    is_read()
    again = load_training(config, CHAT_FORMAT, None)
    assert not is_read()
    assert list(again.encoded) == list(first.encoded)
    assert again.encoded.digest() == first.encoded.digest()


def test_no_row_is_kept_in_memory(write_rows):
    name = write_rows([{"text": f"question {number}", "target": "an answer"} for number in range(50)])
    load(name)
    dataset = load(name)
    assert all(isinstance(column, np.memmap) for column in dataset.examples.columns.arrays.values())
    assert dataset.examples.chosen is dataset.encoded.chosen is None


def test_the_oldest_are_deleted_where_there_is_too_much(write_rows, monkeypatch, tmp_path):
    monkeypatch.setattr(kept_rows, "_MOST_KEPT_BYTES", 4000)
    for number in range(5):
        load(write_rows([{"text": f"{number}", "target": "a"}] * 9, f"{number}.json"))
        for age, place in enumerate(
            sorted((tmp_path / "cache" / "rows").iterdir(), key=lambda one: one.stat().st_mtime)
        ):
            os.utime(place, (1000 * number + age, 1000 * number + age))
    kept = list((tmp_path / "cache" / "rows").iterdir())
    assert 1 <= len(kept) < 5
    assert sum(file.stat().st_size for place in kept for file in place.glob("*.bin")) <= 4000
    assert json.loads((kept[-1] / "rows.json").read_text().partition("\n")[2])["bounds"] == [[0, 9]]
