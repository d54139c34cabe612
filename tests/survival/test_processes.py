"""Several processes that lose each other, are stopped apart, or have no rows: equal to one process, or soon ended."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from trained import ROWS, assert_same_adapter, recorded
from vision import draw, save_vision_model

from lorakit.runs import StepRecord

pytestmark = pytest.mark.slow
LONGEST_END = 30  # seconds from the fault to the end of all processes


class Processes:
    """A training in several processes, started one by one, so that each can be reached alone."""

    def __init__(self, words, count):
        with socket.socket() as chosen:
            chosen.bind(("localhost", 0))
            port = chosen.getsockname()[1]
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
        self.all = [
            subprocess.Popen(
                [sys.executable, "main.py", *map(str, words)],
                cwd=ROOT,
                env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            for rank in range(count)
        ]

    def wait_for_step(self, folder, step):
        while all(process.poll() is None for process in self.all):
            file = folder / "events.jsonl"
            if file.is_file() and file.read_text().count('"event": "step"') >= step:
                return
            time.sleep(0.01)
        raise AssertionError([process.communicate()[1] for process in self.all])

    def finish(self, seconds=240):
        errors = [process.communicate(timeout=seconds)[1][-2000:] for process in self.all]
        return [process.returncode for process in self.all], "\n".join(["", *errors])


@pytest.fixture
def words(model_folder, write_rows):
    """Return a function from batch and folder to the command line of a run."""
    rows = write_rows([*ROWS, *({"text": row["text"] + "！", "target": row["target"]} for row in ROWS[:2])])
    settings = {
        "train_file": rows,
        "validation_file": "null",
        "torch_dtype": "float32",
        "target_modules": "all-linear",
        "lora_dropout": 0.1,
        "max_new_tokens": 2,
        "max_generated_rows": 1,
        "max_tokens_per_microbatch": 60,
        "trainer_args": "{save_strategy: steps, save_steps: 1, ddp_timeout: 20}",
    }

    def line(batch, folder, *extra, epochs=4):
        given = ["--task", "train", "--model_name_or_path", model_folder("llama"), "--output_dir", folder]
        given += ["--num_train_epochs", epochs, "--per_device_train_batch_size", batch]
        return [*given, *(f"--set={name}={value}" for name, value in settings.items()), *extra]

    return line


@pytest.fixture
def alone(words, tmp_path):
    """Return a function from a batch to the folder of a run in one process."""

    def folder_of(batch):
        folder = tmp_path / f"alone-{batch}"
        code, errors = Processes(words(batch, folder), 1).finish()
        assert code == [0], errors
        return folder

    return folder_of


@pytest.mark.parametrize(("count", "batch"), [(2, 2), (3, 1)])
def test_rows_that_do_not_divide_evenly_and_dropout_give_the_adapter_of_one_process(
    words, alone, tmp_path, count, batch
):
    codes, errors = Processes(words(batch, tmp_path / "many"), count).finish()
    assert codes == [0] * count, errors
    one, many = alone(count * batch), tmp_path / "many"
    steps = [recorded(folder, StepRecord) for folder in (one, many)]
    assert [record.rows for record in steps[1]] == [record.rows for record in steps[0]]  # 7 rows: 4 and 3, or 3, 3, 1
    assert [record.loss for record in steps[1]] == pytest.approx([record.loss for record in steps[0]], rel=1e-5)
    assert_same_adapter(one, many, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("skew_milliseconds", [0, 20, 500, None])
def test_a_stop_that_reaches_the_processes_apart_saves_and_goes_on_as_if_it_had_not_come(
    words, tmp_path, skew_milliseconds
):
    folder, unbroken = tmp_path / "stopped", tmp_path / "unbroken"
    codes, errors = Processes(words(2, unbroken), 2).finish()
    assert codes == [0, 0], errors
    processes = Processes(words(2, folder), 2)
    processes.wait_for_step(folder, 2)
    started = time.monotonic()
    first, *others = random.Random(str(skew_milliseconds)).sample(processes.all, 2)
    first.send_signal(signal.SIGTERM)
    if skew_milliseconds is not None:  # else it reaches one alone
        time.sleep(skew_milliseconds / 1000)
        for process in others:
            process.send_signal(signal.SIGTERM)
    codes, errors = processes.finish()
    # A signal may reach a process that has stopped already, and has only to leave.
    assert 130 in codes, errors
    assert set(codes) <= {130, -signal.SIGTERM}, errors
    assert time.monotonic() - started < LONGEST_END
    codes, errors = Processes(words(2, folder, "--set=resume=true"), 2).finish()
    assert codes == [0, 0], errors
    assert_same_adapter(unbroken, folder, rtol=0, atol=0)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_killed_ends_the_others_soon_with_one_message(words, tmp_path, lost):
    folder = tmp_path / "run"
    processes = Processes(words(2, folder, epochs=100), 2)
    processes.wait_for_step(folder, 2)
    processes.all[lost].kill()
    started = time.monotonic()
    codes, errors = processes.finish()
    assert time.monotonic() - started < LONGEST_END
    assert codes[1 - lost] == 2, errors
    assert errors.count("another process of this task has ended") == 1
    assert "internal error" not in errors


def test_a_fault_on_one_process_ends_all_with_its_message(words, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([]))
    codes, errors = Processes(words(2, tmp_path / "run", f"--set=train_file={bad}"), 2).finish(60)
    assert codes == [2, 2], errors
    assert "holds no rows" in errors
    assert "internal error" not in errors


@pytest.mark.parametrize("part", ["train_projector", "train_vision"])
def test_rows_without_pictures_beside_an_adapted_vision_tower_give_the_adapter_of_one_process(tmp_path, part):
    model = save_vision_model(tmp_path / "model")
    picture = draw(tmp_path / "red.png", (70, 50), "red")
    rows = [{"text": f"第{number}个？", "target": "答案" * (number % 3 + 1)} for number in range(8)]
    for number in (0, 5, 6):  # in steps of two: one of a pair, none, one, one; never both
        rows[number]["image"] = picture
    (tmp_path / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    settings = {"train_file": tmp_path / "rows.json", "validation_file": "null", "torch_dtype": "float32", part: "true"}
    settings |= {"target_modules": "all-linear", "min_pixels": 256, "max_pixels": 4096, "max_new_tokens": 2}
    settings |= {"max_generated_rows": 1, "trainer_args": "{train_sampling_strategy: sequential}", "lora_dropout": 0.1}
    for count in (1, 2):
        words = ["--task", "train", "--model_name_or_path", model, "--output_dir", tmp_path / str(count)]
        words += ["--num_train_epochs", 2, "--per_device_train_batch_size", 2 // count, "--learning_rate", "1e-3"]
        codes, errors = Processes(
            [*words, *(f"--set={name}={value}" for name, value in settings.items())], count
        ).finish()
        assert codes == [0] * count, errors
    assert_same_adapter(tmp_path / "1", tmp_path / "2", rtol=1e-4, atol=2e-5)
