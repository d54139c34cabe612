"""Two runs are the same, or the difference is spelled out."""

from dataclasses import replace

from lorakit.runs import RunIdentity, read_identity

IDENTITY = RunIdentity({"lora_r": 8, "seed": 1}, "rows", "weights", "template", "bfloat16", 1)


def test_what_is_saved_is_read_again(tmp_path):
    IDENTITY.save(tmp_path)
    assert read_identity(tmp_path) == IDENTITY
    assert list(IDENTITY.differences(read_identity(tmp_path))) == []


def test_every_difference_is_named():
    later = RunIdentity({"lora_r": 16, "new": 2}, "other", "other", "other", "float32", 2)
    assert list(later.differences(IDENTITY)) == [
        "lora_r was 8 and is 16",
        "new was None and is 2",
        "seed was 1 and is None",
        "the training rows have changed",
        "the weights of the base model have changed",
        "the chat template has changed",
        "the number format was bfloat16 and is float32",
        "1 processes shared a step, now 2",
    ]
    assert list(replace(IDENTITY, rows="x").differences(IDENTITY)) == ["the training rows have changed"]


def test_what_cannot_be_read_is_no_identity(tmp_path):
    assert read_identity(tmp_path) is None
    (tmp_path / "run.json").write_text('{"settings": 1}')
    assert read_identity(tmp_path) is None
