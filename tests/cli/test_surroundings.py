"""Whatever variables of the environment hold: a task does its work, or says in one sentence what is wrong."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from random_adapters import save_random_adapter
from trained import ROWS

pytestmark = pytest.mark.slow
# By variable; one that a task of inference never looks at is given to a training.
IN_INFERENCE = {
    "HF_HOME": ("/dev/null", "relative"),
    "HF_HUB_ETAG_TIMEOUT": ("x",),
    "HF_HUB_DOWNLOAD_TIMEOUT": ("x",),
    "HF_ENDPOINT": ("x",),
    "TORCH_LOGS": ("x",),
    "TORCH_CPP_LOG_LEVEL": ("99",),
    "PYTHONIOENCODING": ("ascii", "utf-16"),
    "PYTHONWARNINGS": ("error",),
    "LANG": ("xx", "../../etc"),
    "TERM": ("", "x\x1b"),
    "COLUMNS": ("0", "-5", "x", "1"),
    "LORAKIT_KERNELS_MARCH": ("x",),
    "http_proxy": ("x",),
    "SSL_CERT_FILE": ("/nonexistent",),
    "GOMP_CPU_AFFINITY": ("x", "999"),
    "ARROW_IO_THREADS": ("x",),
    "USE_TORCH": ("0",),
    "WORLD_SIZE": ("x",),
}
IN_TRAINING = {
    "TMPDIR": ("/nonexistent", "/dev/null"),
    "LORAKIT_CACHE": ("/dev/null", "/proc/x"),
    "HOME": ("/dev/null", "relative"),
    "OMP_NUM_THREADS": ("0", "abc"),
    "OMP_STACKSIZE": ("1",),
    "CUDA_VISIBLE_DEVICES": ("x", "99"),
    "PYTORCH_CUDA_ALLOC_CONF": ("x",),
    "PYTORCH_ALLOC_CONF": ("x:y",),
    "RANK": ("5", "x"),
    "LOCAL_RANK": ("x", "7"),
    "MASTER_PORT": ("x", "99999"),
    "ACCELERATE_MIXED_PRECISION": ("fp8", "x"),
    "ACCELERATE_DYNAMO_BACKEND": ("x",),
    "ACCELERATE_USE_CPU": ("x",),
    "ACCELERATE_USE_FSDP": ("true",),
    "ACCELERATE_USE_DEEPSPEED": ("true",),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("x", "7"),
    "ATEN_CPU_CAPABILITY": ("x",),
    "MPLBACKEND": ("x", "module://evil"),
    "MPLCONFIGDIR": ("/dev/null",),
    "PATH": ("",),
    "CXX": ("/", "sleep 1000", "yes"),
}
CASES = [("inference", name, value) for name, values in IN_INFERENCE.items() for value in values]
CASES += [("train", name, value) for name, values in IN_TRAINING.items() for value in values]


@pytest.fixture(scope="module")
def world(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("surroundings")
    save_random_adapter(model_folder("llama"), folder / "adapter")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "empty.yaml").write_text("")
    return folder


@pytest.mark.parametrize(("task", "name", "value"), CASES)
def test_a_task_does_its_work_or_says_one_sentence(world, model_folder, task, name, value):
    more = {"inference": ("--lora_model_path", str(world / "adapter"), "--question", "a"), "train": ()}[task]
    command = [
        *(sys.executable, str(ROOT / "main.py"), "--task", task, "--config", str(world / "empty.yaml")),
        *("--model_name_or_path", str(model_folder("llama")), "--output_dir", str(world / "out")),
        *(f"--set=train_file={world}/rows.json", f"--set=validation_file={world}/rows.json"),
        *("--set=target_modules=all-linear", "--set=max_length=256", "--set=max_new_tokens=1"),
        *("--num_train_epochs", "1", "--set=max_generated_rows=1", *more),
    ]
    usual = {key: os.environ[key] for key in ("PATH", "HOME", "LORAKIT_CACHE") if key in os.environ}
    ended = subprocess.run(
        command,
        cwd=world,
        env={"OMP_NUM_THREADS": "1", **usual, **({"WORLD_SIZE": "1"} if name == "RANK" else {}), name: value},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=300,
    )
    said = (ended.stdout + ended.stderr).decode("utf-8", "replace")
    assert ended.returncode in (0, 2), said
    assert not re.search("Traceback|internal error|Exception ignored", said), said
    assert ended.returncode == 0 or len(re.findall("(?m)^error: ", said)) == 1, said
