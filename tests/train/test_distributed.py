"""Two processes on one machine train the adapter that one process trains with the same global batch (slow)."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from lorakit.runs import StepRecord, read_records

pytestmark = pytest.mark.slow
ROWS = [{"text": f"第{number}个问题？", "target": "答案" * (number % 4 + 1)} for number in range(8)]


def train(model, rows, output, processes, batch):
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    arguments = ["--model_name_or_path", str(model), "--output_dir", str(output), "--num_train_epochs", "2"]
    settings = {
        "train_file": rows,
        "validation_file": rows,
        "torch_dtype": "float32",
        "target_modules": "all-linear",
        "lora_dropout": 0,
        "max_new_tokens": 4,
        "trainer_args": "{train_sampling_strategy: sequential, use_cpu: true}",
    }
    assignments = [f"--set={name}={value}" for name, value in settings.items()]
    return subprocess.run(
        [*launcher, "main.py", "--task", "train", *arguments, *assignments, f"--per_device_train_batch_size={batch}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_two_processes_give_the_adapter_of_one(model_folder, write_rows, tmp_path):
    rows = write_rows(ROWS)
    for name, processes, batch in (("one", 1, 4), ("two", 2, 2)):
        outcome = train(model_folder("llama"), rows, tmp_path / name, processes, batch)
        assert outcome.returncode == 0, outcome.stderr
        assert outcome.stderr.count("trainable parameters") == 1
    steps = [
        [record for record in read_records(tmp_path / name) if isinstance(record, StepRecord)]
        for name in ("one", "two")
    ]
    assert [record.rows for record in steps[1]] == [record.rows for record in steps[0]] == [4] * 4
    assert [record.target_tokens for record in steps[1]] == [record.target_tokens for record in steps[0]]
    assert [record.loss for record in steps[1]] == pytest.approx([record.loss for record in steps[0]], rel=1e-5)
    one, two = (load_file(tmp_path / name / "lora_model" / "adapter_model.safetensors") for name in ("one", "two"))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-4, atol=1e-6)
