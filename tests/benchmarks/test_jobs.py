import json
import re
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import peers
import tools
from bench import Prepared, judge
from jobs import JOBS, LENGTHS_CHARACTERS, Work, alpaca_rows, generated_rows, layer_parameters
from peers import OWN, reason_in
from results import Run
from spec import TrainingSpec
from tools import TOOLS, command, lorakit_config, specification

from lorakit.config.settings import Config

WORK = Work(
    rows=64, tokens=16_000, target_tokens=12_000, layer_parameters=1, vocabulary=1, hidden=1, rows_source="file"
)


def test_layer_weights_of_the_starter_are_counted_by_hand():
    config = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    }
    assert layer_parameters(config) == 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    assert layer_parameters(config | {"head_dim": 128}) == 30 * (2 * 576 * 1152 + 2 * 576 * 384 + 3 * 576 * 1536)


def test_rows_come_from_the_file_where_it_is_there(tmp_path):
    file = tmp_path / "rows.json"
    written = [{"instruction": "a", "input": "", "output": str(number)} for number in range(5)]
    file.write_text(json.dumps(written))
    assert alpaca_rows(2, file) == (written[:2], "file")


def test_made_up_rows_have_the_lengths_of_the_real_ones_and_never_change(tmp_path):
    rows, source = alpaca_rows(64, tmp_path / "missing.json")
    assert source == "generated"
    assert [(len(row["instruction"]), len(row["output"])) for row in rows] == list(LENGTHS_CHARACTERS)
    assert all(row["output"].strip() and row["instruction"].strip() for row in rows)
    assert rows == generated_rows(64)
    assert rows[:12] == generated_rows(12)


def test_packed_bins_hold_about_the_tokens_of_a_step():
    assert WORK.bins_per_step(rows_per_step=8, bin_tokens=1024) == 2  # 250 tokens a row
    assert WORK.bins_per_step(rows_per_step=1, bin_tokens=1024) == 1


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_gets_the_batch_of_the_job_and_a_program_that_is_there(name, tmp_path):
    tool = TOOLS[name]
    spec = specification(tool, JOBS["R1"], WORK, "model", tmp_path / "rows.json", tmp_path)
    assert spec.sequences_per_step == (2 if tool.packs else 8)
    _, program, *rest = command(tool, JOBS["R1"], tmp_path / "python", spec)
    assert (ROOT / "benchmarks" / program).is_file()
    assert any((tmp_path / word).is_file() for word in rest)


def test_every_peer_has_pinned_versions():
    for environment in {tool.environment for tool in TOOLS.values()} - {OWN}:
        text = (ROOT / "benchmarks" / "peers" / f"{environment}.txt").read_text()
        assert re.fullmatch(r"((#.*|[a-z]+==[\d.]+)\n)+", text)


def test_lorakit_is_measured_with_the_pinned_packages_of_a_user(monkeypatch, tmp_path):
    commands = []
    monkeypatch.setenv("BENCH_VENVS", str(tmp_path))
    monkeypatch.setattr(
        peers, "_run", lambda command: (tmp_path / OWN).mkdir(exist_ok=True) or commands.append(command)
    )
    assert TOOLS["lorakit"].environment == TOOLS["trainer"].environment == OWN
    for _ in range(2):  # the second time everything is there
        assert peers.python_of(OWN) == tmp_path / OWN / "bin" / "python"
    assert len(commands) == 2
    assert commands[1][-4:] == ["-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[vision]"]


def test_lorakit_understands_what_it_is_given():
    config = Config(**lorakit_config(TrainingSpec("model", "rows.json", "out", 8)))
    assert (config.per_device_train_batch_size, config.num_train_epochs, config.validation_file) == (8, 1, None)


def test_a_reason_names_the_error_and_neither_folder_nor_address():
    text = "Traceback\n  File ...\nOSError: /some/where/lib/libx.so: not found at https://host.example/simple/\nbye\n"
    assert reason_in(text) == "OSError: libx.so: not found at (address)"
    assert reason_in("nothing worked\n") == "nothing worked"
    assert reason_in("") == ""


def test_a_tool_of_which_one_run_failed_is_reported_with_the_reason():
    good = Run((1.0,) * 8, (1.0,) * 8, (1.0,) * 8, rows=64, target_tokens=12_000, peak_bytes=1, first_step_seconds=2.0)
    prepared = Prepared(JOBS["R1"], WORK, "model", ROOT)
    outcomes = judge({"lorakit": [good, good], "trainer": [good, good], "trl": [good, "failed: x"]}, prepared, 1.0)
    assert outcomes["lorakit"].fault is None
    assert (outcomes["trl"].summary, outcomes["trl"].fault) == (None, "failed: x")


@pytest.mark.parametrize(
    ("name", "fastest", "has_fp16", "is_measured"),
    [
        ("lorakit", "bfloat16", False, True),
        ("trl-bf16", "bfloat16", False, False),
        ("trl-bf16", "float32", False, True),
        ("lorakit-float32", "float32", False, False),
        ("lorakit-float32", "float32", True, True),
        ("lorakit-float32", "bfloat16", True, False),
    ],
)
def test_a_tool_is_measured_where_its_format_tells_something(monkeypatch, name, fastest, has_fp16, is_measured):
    monkeypatch.setattr(tools, "has_instructions", lambda name: has_fp16)
    assert TOOLS[name].runs_on(fastest) is is_measured
