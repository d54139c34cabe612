"""Rows to train tiny models on, and what to look at afterwards."""

from array import array

import torch
from safetensors.torch import load_file

from lorakit.data_processing import EncodedExample
from lorakit.runs import read_records

ROWS = [
    {"text": f"第{number}个问题是什么？", "target": answer}
    for number, answer in enumerate(
        ["早睡早起。", "多喝水，少熬夜，常运动。", "不要急，慢慢来。", "去散步。", "看书。"]
    )
]


def adapter_weights(folder):
    return load_file(folder / "lora_model" / "adapter_model.safetensors")


def assert_same_adapter(first, second, **tolerance):
    first, second = adapter_weights(first), adapter_weights(second)
    assert set(first) == set(second)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, **tolerance, msg=name)


def recorded(folder, kind):
    """The records of one kind that a run has left."""
    return [record for record in read_records(folder) if isinstance(record, kind)]


LENGTHS = (9, 31, 4, 17)


def sequences():
    """Rows of random token ids, each with a masked prompt."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for length in LENGTHS:
        ids = torch.randint(5, 600, (length,), generator=generator).tolist()
        prompt = length // 3 + 1
        made.append(EncodedExample(array("i", ids), array("i", [-100] * prompt + ids[prompt:]), f"row of {length}"))
    return made
