import pytest
from conftest import TRAIN_FILE, VALIDATION_FILE, family_tokenizer

from lorakit.config import Config
from lorakit.data_processing import ChatFormat, load_dataset
from lorakit.errors import DataError

CHAT_FORMAT = ChatFormat(family_tokenizer("qwen3"))


def load(name, **settings):
    return load_dataset(str(name), Config(**settings), CHAT_FORMAT)


def test_the_shipped_rows_are_all_used():
    train, validation = load(TRAIN_FILE), load(VALIDATION_FILE)
    assert (len(train.examples), len(validation.examples)) == (15, 5)
    assert train.examples[0].messages[0].content == "如何保持良好的睡眠质量？"
    assert train.rejected == validation.rejected == ()
    assert train.duplicates == ()
    assert validation.overlap(train) == ()
    assert not train.trains_thinking


def test_every_row_is_used_or_named(write_rows):
    rows = [{"text": "q", "target": "a"}, {"text": "q"}, 3, {"text": "q", "target": "a"}, {"text": "q", "target": ""}]
    name = write_rows(rows)
    dataset = load(name)
    assert len(dataset.examples) + len(dataset.rejected) == len(rows)
    assert [line.partition(": ")[0] for line in dataset.rejection_lines()] == [f"{name} item {n}" for n in (2, 3, 5)]
    assert dataset.duplicates == (f"{name} item 4",)


def test_many_unused_rows_are_counted_after_the_first(write_rows):
    dataset = load(write_rows([{"text": "q", "target": "a"}] + [{}] * 12))
    assert len(dataset.rejection_lines()) == 11
    assert dataset.rejection_lines()[-1] == "... and 2 more"


def test_a_file_is_not_read_to_its_end_where_nothing_is_usable(tmp_path, monkeypatch):
    monkeypatch.setattr("lorakit.data_processing.reading._ENOUGH_REJECTED", 100)
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n' * 50_000 + "[" * 100)
    with pytest.raises(DataError, match="no usable row among") as found:
        load(file)
    assert int(found.value.message.split("among ")[1].split()[0]) < 50_000
    file.write_text('{"text": "a", "target": "b"}\n' + '{"text": "a"}\n' * 10_000)
    assert len(load(file).rejected) == 10_000


def test_a_file_with_nothing_usable_stops_with_the_reasons(write_rows):
    name = write_rows([{"question": "q"}, {"label": "a"}])
    with pytest.raises(DataError) as caught:
        load(name)
    assert f"{name}: no usable row among 2" in caught.value.message
    assert f"{name} item 2: " in caught.value.message


def test_an_empty_list_stops(write_rows):
    with pytest.raises(DataError, match="holds no rows"):
        load(write_rows([]))


def test_a_model_s_own_limit_bounds_max_length(write_rows):
    name = write_rows([{"text": "问" * 200, "target": "a"}])
    assert load_dataset(name, Config(), CHAT_FORMAT, position_limit=50).longest == 50


def test_counts_add_up(write_rows):
    dataset = load(write_rows([{"text": "q", "target": "ab"}, {"text": "q2", "target": "c"}]))
    assert dataset.tokens == sum(len(sequence.input_ids) for sequence in dataset.encoded)
    assert dataset.targets == sum(sequence.targets for sequence in dataset.encoded)
    # two letters (or their merge) and one letter, each with its end of turn
    assert dataset.targets in (4, 5)


def test_rows_that_mostly_reason_are_noticed(write_rows):
    thoughtful = {"text": "q", "target": "<think>\nx\n</think>\n\na"}
    assert load(write_rows([thoughtful, thoughtful, {"text": "q", "target": "a"}])).trains_thinking
    assert not load(write_rows([thoughtful, {"text": "q", "target": "a"}])).trains_thinking


def test_the_first_rows_keep_all_their_sequences_and_what_was_cut_of_them():
    train = load(TRAIN_FILE)
    first = train.first(4)
    assert first.examples == train.examples[:4]
    assert first.encoded == train.encoded[:4]
    assert (first.name, first.cut, first.rejected) == (train.name, (), ())
    assert train.first(100).encoded == train.encoded
