import json
from collections import Counter

import pytest
from conftest import family_tokenizer

from lorakit.config import Config, load_config
from lorakit.config.loading import make_config
from lorakit.data_processing import ChatFormat, load_dataset, load_datasets, load_training, load_validation
from lorakit.errors import DataError, SettingsError

CHAT_FORMAT = ChatFormat(family_tokenizer("qwen3"))


def rows_of(name, count):
    return [{"text": f"{name} {number}", "target": "a"} for number in range(count)]


def test_several_files_are_mixed_by_weight_and_each_has_its_own_limit(write_rows, capsys):
    files = [write_rows(rows_of(name, 10), f"{name}.json") for name in "abc"]
    listed = [files[0], {"path": files[1], "weight": 2.5}, {"path": files[2], "weight": 0.5, "max_rows": 4}]
    config = make_config({"train_file": listed, "validation_file": None}, "here")
    dataset = load_training(config, CHAT_FORMAT, None)
    assert dataset.name == ", ".join(files)
    assert len(dataset.examples) == 10 + 10 + 2
    places = Counter(sequence.origin for sequence in dataset.encoded)
    assert Counter(origin.rpartition("/")[2][0] for origin in places.elements()) == {"a": 10, "b": 25, "c": 2}
    assert set(places.values()) == {1, 2, 3}
    assert "weight 0.5 trains 2 of 4 rows" in capsys.readouterr().err.replace("\n", " ")
    assert load_training(config, CHAT_FORMAT, None).encoded == dataset.encoded


def test_max_rows_reads_only_the_first(write_rows):
    assert len(load_dataset(write_rows(rows_of("a", 10)), Config(max_rows=3), CHAT_FORMAT).examples) == 3


def test_a_share_is_held_back_by_question(write_rows):
    rows = [{"text": f"Question {number // 3} ", "target": str(number)} for number in range(60)]
    rows[1]["text"] = "question  0"
    config = make_config({"train_file": write_rows(rows), "validation_share": 0.2}, "here")
    train, held_out = load_datasets(config, CHAT_FORMAT, None)
    assert (len(train.examples), len(held_out.examples)) == (48, 12)
    asked = [
        {" ".join(example.messages[0].content.lower().split()) for example in dataset.examples}
        for dataset in (train, held_out)
    ]
    assert not asked[0] & asked[1]
    assert held_out.name.startswith("20% of ")
    assert load_validation(config, CHAT_FORMAT, None).examples == held_out.examples
    other = config.model_copy(update={"seed": 1})
    assert load_validation(other, CHAT_FORMAT, None).examples != held_out.examples


def test_one_question_cannot_stand_on_both_sides(write_rows):
    name = write_rows([{"text": "q", "target": str(number)} for number in range(9)])
    config = make_config({"train_file": name, "validation_share": 0.2}, "here")
    with pytest.raises(DataError, match="all rows ask the same question"):
        load_datasets(config, CHAT_FORMAT, None)


def test_a_share_beside_a_file_is_refused():
    with pytest.raises(SettingsError, match="are both set"):
        load_config(None, {}, ["validation_share=0.1", "validation_file=x.json"])


@pytest.mark.parametrize(
    "value", [[], [3], [{"weight": 1}], [{"path": "x", "wight": 2}], {"path": "x", "weight": 0}, "", [{"path": ""}]]
)
def test_a_list_of_files_is_checked_before_anything_is_read(value):
    with pytest.raises(SettingsError, match="train_file must"):
        make_config({"train_file": value}, "here")


def test_a_list_of_files_stands_in_the_configuration_of_a_run(tmp_path):
    from lorakit.config.loading import as_yaml

    config = make_config({"train_file": ["a.json", {"path": "b.json", "weight": 2}]}, "here")
    file = tmp_path / "used.yaml"
    file.write_text(as_yaml(config))
    assert load_config(str(file), {}, []).train_file == config.train_file
    assert json.dumps(config.model_dump()["train_file"])
