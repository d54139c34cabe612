"""Rows to train tiny models on, and what to look at afterwards."""

import os
import signal
from array import array

import torch
from safetensors.torch import load_file

from lorakit.data_processing import EncodedExample
from lorakit.runs import RecordLog, StepRecord, read_records

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
        torch.testing.assert_close(second[name], tensor, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def recorded(folder, kind):
    """The records of one kind that a run has left."""
    return [record for record in read_records(folder) if isinstance(record, kind)]


def interrupt_at(monkeypatch, step):
    """Press Ctrl-C after a step."""
    append = RecordLog.append

    def append_and_interrupt(self, record):
        append(self, record)
        if isinstance(record, StepRecord) and record.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RecordLog, "append", append_and_interrupt)


LENGTHS = (9, 31, 4, 17)


def sequences(beginning=0):
    """Rows of random token ids, each with a masked prompt; ``beginning`` more tokens in front are those of all rows."""
    generator = torch.Generator().manual_seed(1)
    made = []
    shared = list(range(30, 30 + beginning))
    for length in LENGTHS:
        ids = torch.randint(5, 600, (length,), generator=generator).tolist()
        prompt = length // 3 + 1
        labels = [-100] * (beginning + prompt) + ids[prompt:]
        made.append(EncodedExample(array("i", shared + ids), array("i", labels), f"row of {length}"))
    return made
