"""Files that change while a task reads them: the result of one state of them, or one sentence."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from changing import DAMAGES, Openings, replaced, watched, written_over
from conftest import ROOT, save_family
from random_adapters import save_random_adapter
from trained import ROWS

from lorakit.cli import main

ADAPTER = ("--lora_model_path", "{world}/adapter")
QUICK = ("num_train_epochs=1", "max_new_tokens=2", "cpu_kernels=false", "compile_layers=false", "torch_dtype=float32")
TASKS = {
    "preview": ["preview"],
    "one question": ["inference", *ADAPTER, "--question", "a", "--tools", "{world}/tools.json"],
    "a file of questions": ["inference", *ADAPTER, "--question_file", "{world}/q.jsonl"],
    "train": ["train"],
    "resume": ["train", "--set=num_train_epochs=2", "--set=resume=force"],
    "evaluate": ["evaluate", *ADAPTER],
    "merge": ["merge", *ADAPTER],
    "export": ["export", *ADAPTER, "--format", "peft"],
    "export for llama.cpp": ["export", *ADAPTER, "--format", "gguf"],
}  # fmt: skip
KEPT = (
    *("*/adapter_model.safetensors", "*/adapter_config.json", "*/lorakit.json", "*/chat_template.jinja"),
    *("*/config.json", "*/generation_config.json", "*/model*.safetensors", "*/*.gguf", "*/Modelfile", "*/proof.json"),
    *("predictions.jsonl", "eval_results.json", "config_used.yaml", "run.json"),
)


def made(folder, number):
    """A world of files of which each differs from that of another number."""
    folder.mkdir(parents=True)
    model = save_family("qwen3", folder / "model", seed=number)
    adapter = save_random_adapter(model, folder / "adapter", seed=number + 1)
    rows = [{**row, "text": f"{row['text']}{number}"} for row in ROWS]
    for name in ("train.json", "validation.json"):
        (folder / name).write_text(json.dumps(rows))
    (folder / "q.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    (folder / "config.yaml").write_text(f"lora_r: {4 + number}\n")
    called = {"name": f"f{number}", "parameters": {"type": "object", "properties": {}}}
    (folder / "tools.json").write_text(json.dumps([{"type": "function", "function": called}]))
    template = model / "chat_template.jinja"
    template.write_text(f"{number}{template.read_text()}")
    for file, changes in (
        (model / "config.json", {"rms_norm_eps": 10.0 ** (number - 6)}),
        (model / "generation_config.json", {"eos_token_id": number}),
        (adapter / "adapter_config.json", {"lora_alpha": 8 + number}),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


class Worlds:
    """Two worlds, and one that a task is run in, which is the first of them until a file of it changes."""

    def __init__(self, root):
        self.first, self.second, self.world = made(root / "first", 0), made(root / "second", 1), root / "world"

    def begin(self):
        shutil.rmtree(self.world, ignore_errors=True)
        shutil.copytree(self.first, self.world)

    def command(self, task):
        name, *more = (word.format(world=self.world) for word in TASKS[task])
        return [
            *("--task", name, "--config", str(self.world / "config.yaml")),
            *("--model_name_or_path", str(self.world / "model"), "--output_dir", str(self.world / "out")),
            *(f"--set=train_file={self.world}/train.json", f"--set=validation_file={self.world}/validation.json"),
            *("--set=target_modules=all-linear", "--set=max_length=256", "--set=max_generated_rows=2"),
            *(f"--set={one}" for one in QUICK),
            *more,
        ]

    def changes(self, relative):
        """All that can become of a file, by its name."""
        ways = dict(DAMAGES)
        if (other := self.second / relative).is_file():
            ways |= {
                "replaced": lambda path: replaced(path, other),
                "written over": lambda path: written_over(path, other),
            }
        return ways

    def result(self, said):
        """What a task has left and said, without times, marks and memory."""
        found = {"said": re.sub(r"(?m)^.*\b(s|ms|GB|MB|tokens/s)\b.*$", "", said)}
        out = self.world / "out"
        for file in sorted({path for pattern in KEPT for path in out.glob(pattern)}):
            content = file.read_bytes()
            if file.name in ("run.json", "proof.json"):
                content = json.dumps(json.loads(content) | {"mark": "", "seconds": 0}, sort_keys=True).encode()
            found[str(file.relative_to(out))] = hashlib.sha256(content).hexdigest()
        answers = self.world / "q.answers.jsonl"
        return found | ({"answers": answers.read_text()} if answers.exists() else {})


def fault_of(code, said, result, allowed):
    """Say what is wrong with an outcome; None where nothing is."""
    if "Traceback" in said or "internal error" in said:
        return "is no sentence"
    if code == 0:
        return None if result in allowed else "is of no single state"
    if code != 2:
        return f"ends with {code}"
    return None if len(re.findall("^error: ", said, re.MULTILINE)) == 1 else "says several errors"


FAST = [
    ("preview", file, change, at, is_after)
    for file, change, at, is_after in (
        ("model/config.json", "replaced", -1, True),
        ("model/tokenizer.json", "cut short", -1, True),
        ("model/chat_template.jinja", "written over", -1, False),
        ("model/tokenizer_config.json", "gone", 0, True),
        ("train.json", "written over", 0, True),
        ("train.json", "cut short", 0, True),
        ("train.json", "a folder", 0, False),
        ("config.yaml", "gone", 0, False),
    )
] + [
    ("one question", "adapter/adapter_model.safetensors", "replaced", 0, True),
    ("one question", "adapter/adapter_config.json", "written over", -1, True),
    ("one question", "model/model.safetensors", "replaced", -1, False),
    ("one question", "model/config.json", "written over", -1, True),
]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    return Worlds(tmp_path_factory.mktemp("worlds"))


def run_here(worlds, task, openings, capsys, monkeypatch):
    capsys.readouterr()
    with watched(openings, monkeypatch):
        code = main(worlds.command(task))
    said = "".join(capsys.readouterr())
    return code, said, worlds.result(said)


def opened_in(worlds, task, capsys, monkeypatch):
    worlds.begin()
    openings = Openings(worlds.world)
    code, said, result = run_here(worlds, task, openings, capsys, monkeypatch)
    assert code == 0, said
    return openings.names, result


@pytest.mark.every(3)
@pytest.mark.parametrize("case", FAST, ids=lambda case: " ".join(map(str, case)))
def test_a_file_that_changes_leads_to_one_state_or_one_sentence(worlds, case, capsys, monkeypatch):
    task, file, change, at, is_after = case
    names, untouched = opened_in(worlds, task, capsys, monkeypatch)
    places = [number for number, name in enumerate(names) if name == str(worlds.world / file)]
    change_it = worlds.changes(file)[change]
    worlds.begin()
    openings = Openings(worlds.world, places[at], is_after, lambda: change_it(worlds.world / file))
    code, said, result = run_here(worlds, task, openings, capsys, monkeypatch)
    allowed = [untouched]
    if code == 0 and result != untouched:
        worlds.begin()
        change_it(worlds.world / file)
        allowed.append(run_here(worlds, task, Openings(worlds.world), capsys, monkeypatch)[2])
    assert fault_of(code, said, result, allowed) is None, said[-900:]
    assert not openings.is_due


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="tasks run in children, some of which a signal may end")
@pytest.mark.parametrize("task", TASKS)
def test_whatever_becomes_of_any_file_at_any_of_its_openings(task, tmp_path):
    report = tmp_path / "report.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "LORAKIT_CACHE": str(tmp_path / "c")}
    subprocess.run([sys.executable, __file__, task, str(report)], env=environment, check=True, timeout=7200)
    found = json.loads(report.read_text())
    assert found["tried"] >= 60
    assert found["faults"] == []


def sweep(task, report):
    """Try everything on all files that a task opens, in children of this process."""
    import measuring

    measuring.import_everything()
    root = report.parent / "worlds"
    worlds = Worlds(root)
    seen = root / "seen.json"
    stand = root / "stand"
    stand.mkdir()

    def run(task, openings):
        def call():
            with watched(openings, pytest.MonkeyPatch()):
                code = main(worlds.command(task))
            seen.write_text(json.dumps(openings.names))
            return code

        outcome = measuring.outcome_of(call, stand)
        return outcome.code, outcome.said, worlds.result(outcome.said)

    if task == "resume":
        for world in (worlds.first, worlds.second):
            shutil.copytree(world, worlds.world)
            assert run("train", Openings(worlds.world))[0] == 0
            shutil.copytree(worlds.world / "out", world / "out")
            shutil.rmtree(worlds.world)
    worlds.begin()
    code, said, untouched = run(task, Openings(worlds.world))
    assert code == 0, said
    names = json.loads(seen.read_text())
    tried, faults = 0, []
    for file in sorted({name for name in names if (worlds.first / Path(name).relative_to(worlds.world)).is_file()}):
        relative = Path(file).relative_to(worlds.world)
        places = [number for number, name in enumerate(names) if name == file]
        middle = places[len(places) // 2]
        points = {(places[0], True), (middle, False), (places[-1], False), (places[-1], True)}
        points |= {(min(places[-1] + 2, len(names) - 1), False)}
        for change, make in worlds.changes(relative).items():
            worlds.begin()
            make(worlds.world / relative)
            from_the_start = run(task, Openings(worlds.world))[2]
            for at, is_after in sorted(points):
                worlds.begin()
                openings = Openings(worlds.world, at, is_after, lambda make=make, to=relative: make(worlds.world / to))
                fault = fault_of(*(outcome := run(task, openings)), [untouched, from_the_start])
                tried += 1
                is_under_who_has_it_mapped = outcome[0] == -signal.SIGBUS and file.endswith(".safetensors")
                if fault is not None and not is_under_who_has_it_mapped:
                    faults.append(f"{relative} {change} at {at} {is_after}: {fault}: {outcome[1][-600:]}")
    report.write_text(json.dumps({"tried": tried, "faults": faults}))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    sweep(sys.argv[1], Path(sys.argv[2]))
