"""What goes on from a checkpoint is the run that was broken off, or is refused: never another one."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from trained import ROWS, adapter_weights, assert_same_adapter, interrupt_at, recorded

from lorakit.engine import LossSum
from lorakit.runs import EvaluationRecord, PlanRecord, RecordLog, StepRecord, checkpoints, step_of
from lorakit.train import curve, trainer
from lorakit.train import step as step_module

BEST = ("--num_train_epochs", "8", "--learning_rate", "0.1", "--set", "early_stopping_patience=2")

EVERY_STEP = "--set=trainer_args={eval_strategy: steps, eval_steps: 1, save_strategy: steps, save_steps: 1}"
ONLY_BEST = "--set=trainer_args={save_strategy: best, eval_strategy: steps, eval_steps: 1}"
SELDOM_SAVED = (
    "--set=trainer_args={eval_strategy: steps, eval_steps: 1, save_strategy: steps, save_steps: 5, "
    "lr_scheduler_type: constant}"
)


def losses(folder):
    return [(record.step, record.loss, record.grad_norm) for record in recorded(folder, StepRecord)]


def validations(folder):
    return [(record.step, record.loss) for record in recorded(folder, EvaluationRecord)]


def budgets(folder):
    return [(record.step, record.max_tokens) for record in recorded(folder, PlanRecord)]


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(BEST, marks=pytest.mark.slow),
        (*BEST, "--set", "trainer_args={eval_strategy: steps, save_strategy: steps, eval_steps: 2, save_steps: 2}"),
        pytest.param((*BEST[:4], "--set", "load_best_model=true"), marks=pytest.mark.slow),
        ("--num_train_epochs", "2", "--set", "trainer_args={max_steps: 5, save_strategy: steps, save_steps: 2}"),
        pytest.param((*BEST[:4], "--set=load_best_model=true", ONLY_BEST), marks=pytest.mark.slow),
        pytest.param((*BEST[:4], "--set=load_best_model=true", SELDOM_SAVED), marks=pytest.mark.slow),
    ],
    ids=[
        *("patience by epoch", "patience by steps", "best of all", "an end within an epoch", "only the best is saved"),
        "seldom saved",
    ],
)
def test_a_run_stopped_at_any_step_and_resumed_equals_the_unbroken_one(command, monkeypatch, extra):
    code, unbroken = command(*extra, folder="unbroken")
    assert code == 0
    last = losses(unbroken)[-1][0]
    for step in (1, 3, last - 1):  # the stop comes with the step after
        with monkeypatch.context() as patches:
            interrupt_at(patches, step)
            code, folder = command(*extra, folder=f"stopped-{step}")
        assert code == (130 if step + 1 < last else 0)
        assert code == 0 or (folder / f"checkpoint-{step + 1}").is_dir()
        code, _ = command(*extra, "--set", "resume=true", folder=f"stopped-{step}")
        assert code == 0
        assert losses(folder) == losses(unbroken), step
        assert validations(folder) == validations(unbroken), step
        assert_same_adapter(unbroken, folder, rtol=0, atol=0)


def test_the_best_adapter_is_kept_though_no_checkpoint_was_due_at_its_step(command, monkeypatch):
    found = iter([5.0, 4.0, 6.0, 3.0, 7.0, 8.0])
    monkeypatch.setattr(trainer, "dataset_loss", lambda *_: LossSum(next(found), 1))
    code, folder = command("--num_train_epochs", "2", "--set=load_best_model=true", SELDOM_SAVED)
    assert code == 0
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-6", "checkpoint-4"]
    best = load_file(folder / "checkpoint-4" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, best[name]) for name, tensor in adapter_weights(folder).items())


@pytest.mark.parametrize(("extra", "kept"), [((), 3), (("--set=load_best_model=false",), 6)], ids=["auto", "false"])
def test_with_validation_rows_the_best_adapter_is_kept_by_itself(command, monkeypatch, capsys, extra, kept):
    found = iter([4.0, 5.0])
    monkeypatch.setattr(trainer, "dataset_loss", lambda *_: LossSum(next(found), 1))
    code, folder = command("--num_train_epochs", "2", *extra)
    assert code == 0
    last = load_file(folder / f"checkpoint-{kept}" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, last[name]) for name, tensor in adapter_weights(folder).items())
    said = capsys.readouterr().err
    assert ("kept: the adapter of step 3, whose validation loss of 4.0000 is the lowest" in said) is (kept == 3)
    assert ("--set load_best_model=false" in said) is (kept == 3)


def test_a_run_that_had_come_to_its_end_is_only_finished(command):
    for extra in (BEST, ("--num_train_epochs", "2", "--set", "trainer_args={max_steps: 5, save_strategy: steps}")):
        _, folder = command(*extra, folder=str(len(extra)))
        before = adapter_weights(folder), losses(folder)
        shutil.rmtree(folder / "lora_model")  # killed before it was saved
        assert command(*extra, "--set", "resume=true", folder=str(len(extra)))[0] == 0
        assert losses(folder) == before[1]
        after = adapter_weights(folder)
        assert all(torch.equal(tensor, after[name]) for name, tensor in before[0].items())


def test_a_halved_token_budget_is_recorded_and_kept(command, monkeypatch):
    extra = ("--num_train_epochs", "3", "--per_device_train_batch_size", "4", "--set", "lora_dropout=0.1")
    real = step_module.token_logprobs

    def scarce(model, micro_batch, *options):
        if micro_batch.tokens > 100 and len(steps) >= 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(model, micro_batch, *options)

    steps = []
    append = RecordLog.append

    def counted(self, record):
        append(self, record)
        if isinstance(record, StepRecord):
            steps.append(record)

    monkeypatch.setattr(RecordLog, "append", counted)
    with monkeypatch.context() as patches:
        patches.setattr(step_module, "token_logprobs", scarce)
        _, unbroken = command(*extra, folder="unbroken")
        steps.clear()
        interrupt_at(patches, 4)
        command(*extra, folder="stopped")
    first, *halved = budgets(unbroken)
    assert halved == [(3, first[1] // 2**number) for number in range(1, len(halved) + 1)]
    assert halved[-1][1] <= 128
    code, stopped = command(*extra, "--set", "resume=true", folder="stopped")  # with memory enough
    assert code == 0
    assert losses(stopped) == losses(unbroken)
    assert budgets(stopped) == [first, *halved]
    assert_same_adapter(unbroken, stopped, rtol=0, atol=0)


@pytest.mark.every(5)
@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((), ("--set=trainer_args={dataloader_drop_last: true}",), "dataloader_drop_last was None and is True"),
        (BEST, ("--set=early_stopping_patience=3",), "early_stopping_patience was 2 and is 3"),
        (BEST, ("--set=trainer_args={eval_delay: 2}",), "eval_delay was None and is 2"),
    ],
)
def test_settings_that_change_what_is_kept_are_held_to(command, capsys, first, second, said):
    given = first or ("--num_train_epochs", "1")
    _, folder = command(*given)
    before = adapter_weights(folder)
    assert command(*given, *second, "--set", "resume=true")[0] == 2
    assert said in capsys.readouterr().err
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_weights(folder).items())


@pytest.mark.every(0)
def test_other_validation_rows_matter_only_where_they_decide(command, write_rows, capsys):
    other = f"--set=validation_file={write_rows(ROWS[2:], 'other.json')}"
    last = ("--num_train_epochs", "1", "--set=load_best_model=false")
    command(*last, folder="last")
    assert command(*last, other, "--set=resume=true", folder="last")[0] == 0
    command(*BEST, folder="best")
    assert command(*BEST, other, "--set=resume=true", folder="best")[0] == 2
    assert "the validation rows, which decide what is kept, have changed" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_not_taken(command, capsys):
    _, folder = command("--num_train_epochs", "1")
    mark = json.loads((folder / "run.json").read_text())["mark"]
    assert len(mark) == 32
    command("--num_train_epochs", "1")  # the same again: another run all the same
    shutil.rmtree(folder / "checkpoint-3")
    shutil.copytree(folder / "previous" / "1" / "checkpoint-3", folder / "checkpoint-3")
    assert command("--num_train_epochs", "1", "--set=resume=true")[0] == 2
    errors = capsys.readouterr().err
    assert "checkpoint-3 is passed over: another run left it" in errors
    assert "there is no whole checkpoint" in errors


def test_what_stands_where_a_checkpoint_is_still_to_be_written_is_moved_and_not_deleted(command, monkeypatch, capsys):
    every_step = "--set=trainer_args={save_strategy: steps, save_steps: 1}"
    with monkeypatch.context() as patches:
        interrupt_at(patches, 1)
        code, folder = command("--num_train_epochs", "2", every_step)
    assert code == 130
    for name in ("checkpoint-4", "checkpoint-500"):  # of another tool
        (folder / name).mkdir()
        (folder / name / "pytorch_model.bin").write_text("mine")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-5")  # a whole one, of another run
    manifest = (folder / "checkpoint-5" / "manifest.json").read_text()
    other = manifest.replace(json.loads(manifest)["run"], "0" * 32)
    (folder / "checkpoint-5" / "manifest.json").write_text(other)
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-3")  # its own, damaged
    (folder / "checkpoint-3" / "adapter_model.safetensors").unlink()
    assert command("--num_train_epochs", "2", every_step, "--set=resume=true")[0] == 0
    said = capsys.readouterr().err
    assert "checkpoint-500, checkpoint-5, checkpoint-4: left by another run or changed, and moved to" in said
    moved = folder / "previous" / "1"
    assert sorted(path.name for path in moved.iterdir()) == ["checkpoint-4", "checkpoint-5", "checkpoint-500"]
    assert (moved / "checkpoint-4" / "pytorch_model.bin").read_text() == "mine"
    assert (moved / "checkpoint-5" / "manifest.json").read_text() == other


CHANGED = ("lora_model/README.md", "lora_model/notes.txt", "config_used.yaml", "report.html", "predictions.jsonl")


@pytest.mark.slow
def test_what_somebody_has_changed_or_added_is_kept_when_it_would_be_written_over(command, capsys):
    words = ("--num_train_epochs", "3", "--set=trainer_args={save_total_limit: 1}")
    _, folder = command(*words)
    changed = [folder / name for name in CHANGED]
    for number, file in enumerate(changed):
        file.write_text(f"mine {number}")
    assert command(*words, "--set=resume=true")[0] == 0
    assert "lora_model: not as lorakit wrote it, and kept in" in capsys.readouterr().err
    for number, name in enumerate(CHANGED):
        assert [path.read_text() for path in (folder / "previous").glob(f"*/{name}")] == [f"mine {number}"]
    assert command(*words, "--set=resume=true")[0] == 0  # all of it is lorakit's own now
    assert "not as lorakit wrote it" not in capsys.readouterr().err
    (folder / "eval_results.json").write_text("mine")
    assert command("--lora_model_path", str(folder / "lora_model"), task="evaluate")[0] == 0
    assert [path.read_text() for path in (folder / "previous").glob("*/eval_results.json")] == ["mine"]


def test_a_finished_adapter_outlives_any_number_of_broken_runs(command, monkeypatch):
    _, folder = command("--num_train_epochs", "1")
    finished = adapter_weights(folder)
    with monkeypatch.context() as patches:
        interrupt_at(patches, 1)
        for _ in range(2):
            assert command("--num_train_epochs", "1", "--lora_r", "2")[0] == 130
    command("--num_train_epochs", "1", "--lora_r", "2")
    kept = adapter_weights(folder / "previous" / "1")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in finished.items())
    assert sorted(path.name for path in (folder / "previous").iterdir()) == ["1", "2", "3"]


def test_resume_auto_begins_where_there_is_nothing_and_goes_on_where_there_is(command, monkeypatch, capsys):
    extra = ("--num_train_epochs", "2", "--set", "resume=auto")
    _, unbroken = command("--num_train_epochs", "2", folder="unbroken")
    with monkeypatch.context() as patches:
        interrupt_at(patches, 4)
        assert command(*extra)[0] == 130
    assert "so this run begins anew" in capsys.readouterr().err
    code, folder = command(*extra)
    assert code == 0
    assert "5 done before" in capsys.readouterr().err
    assert_same_adapter(unbroken, folder, rtol=0, atol=0)
    assert not (folder / "previous").exists()
    assert command(*extra, "--lora_r", "4")[0] == 2  # it is never another run that goes on


@pytest.mark.every(0)
def test_a_run_that_was_moved_keeps_its_best_adapter(command, tmp_path, monkeypatch):
    _, unbroken = command(*BEST, folder="unbroken")
    with monkeypatch.context() as patches:
        interrupt_at(patches, losses(unbroken)[-1][0] - 1)
        _, folder = command(*BEST, folder="here")
    os.rename(folder, tmp_path / "there")
    code, moved = command(*BEST, "--set=resume=true", folder="there")
    assert code == 0
    assert_same_adapter(unbroken, moved, rtol=0, atol=0)


def test_a_best_checkpoint_that_is_damaged_ends_the_run_and_is_not_replaced_by_the_last(command, monkeypatch, capsys):
    _, folder = command(*BEST)
    best = min(validations(folder), key=lambda pair: pair[1])[0]
    (folder / f"checkpoint-{best}" / "adapter_model.safetensors").write_bytes(b"")
    shutil.rmtree(folder / "lora_model")
    assert command(*BEST, "--set=resume=true")[0] == 2
    assert "the adapter of the best validation loss cannot be read" in capsys.readouterr().err


def test_a_curve_that_cannot_be_drawn_costs_nothing_else(command, monkeypatch, capsys):
    def fail(folder, base_loss=None):
        assert (folder / "lora_model" / "adapter_model.safetensors").is_file()
        raise ValueError("no font")

    monkeypatch.setattr(curve, "draw_loss_curve", fail)
    code, folder = command("--num_train_epochs", "1")
    assert code == 0
    assert "loss_curve.png could not be drawn (ValueError: no font)" in capsys.readouterr().err
    assert (folder / "eval_results.json").is_file()


def test_an_adapter_that_lorakit_has_not_made_is_not_replaced_by_a_resumed_run(command, capsys):
    _, folder = command("--num_train_epochs", "1")
    (folder / "lora_model" / "lorakit.json").unlink()
    assert command("--num_train_epochs", "1", "--set=resume=true")[0] == 2
    assert "was not made by lorakit" in capsys.readouterr().err


def test_too_little_room_is_said_before_the_first_step(command, monkeypatch, capsys):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("lorakit.runs.folder.shutil.disk_usage", lambda _: usage._replace(free=20_000))
    code, folder = command("--num_train_epochs", "1")
    assert code == 2
    assert "has 0.02 MB left" in capsys.readouterr().err
    assert not (folder / "events.jsonl").exists()


def test_another_base_is_noticed_whatever_part_of_it_differs(command, model_folder, capsys):
    base = model_folder("gpt2")
    command("--num_train_epochs", "1", family="gpt2")
    weights, original = load_file(base / "model.safetensors"), (base / "model.safetensors").read_bytes()
    matrix = next(name for name, tensor in weights.items() if tensor.dim() == 2 and "mlp" in name)
    weights[matrix][: len(weights[matrix]) // 4] = 0
    try:
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
        assert command("--num_train_epochs", "1", "--set=resume=true", family="gpt2")[0] == 2
        assert "the weights of the base model have changed" in capsys.readouterr().err
        assert command("--num_train_epochs", "1", family="gpt2", task="evaluate")[0] == 2
        assert "whose weights are not those of" in capsys.readouterr().err
    finally:
        (base / "model.safetensors").write_bytes(original)
    assert command("--num_train_epochs", "1", family="gpt2", task="evaluate")[0] == 0


_DATED = "Today is {{ strftime_now('%d %B %Y') }}.\n"


@pytest.fixture
def on(monkeypatch):
    """Return a function that sets the day."""
    import datetime

    from lorakit.train.setup import preparing

    def set_day(day):
        class Day(datetime.date):
            @classmethod
            def today(cls):
                return cls.fromisoformat(day)

        monkeypatch.setattr(preparing.datetime, "date", Day)

    return set_day


@pytest.mark.slow
def test_a_run_of_monday_is_resumed_on_tuesday_with_mondays_date(command, model_folder, tmp_path, on, monkeypatch):
    base = shutil.copytree(model_folder("llama"), tmp_path / "dated")
    file = next(file for file in (base / "chat_template.jinja", base / "tokenizer_config.json") if file.is_file())
    assert file.name == "chat_template.jinja"
    file.write_text(_DATED + file.read_text())
    extra = ("--model_name_or_path", str(base), "--num_train_epochs", "2")
    on("2026-11-23")
    assert command(*extra, folder="unbroken")[0] == 0
    with monkeypatch.context() as patches:
        interrupt_at(patches, 1)
        code, folder = command(*extra, folder="stopped")
    assert code == 130
    on("2026-11-24")
    assert command(*extra, "--set", "resume=true", folder="stopped")[0] == 0
    assert losses(folder) == losses(tmp_path / "unbroken")
    assert json.loads((folder / "lora_model" / "lorakit.json").read_text())["template_date"] == "2026-11-23"
    assert command(*extra, folder="tuesday")[0] == 0
    assert losses(tmp_path / "tuesday") != losses(tmp_path / "unbroken")


def test_a_setting_that_holds_a_secret_is_compared_and_not_written(command, capsys):
    extra, secret = ("--num_train_epochs", "1"), "abcdefgh12345678"
    _, folder = command(*extra, f"--set=system_prompt=password={secret}")
    assert secret not in (folder / "run.json").read_text()
    assert command(*extra, f"--set=system_prompt=password={secret}", "--set=resume=true")[0] == 0
    capsys.readouterr()
    assert command(*extra, f"--set=system_prompt=password={secret}9", "--set=resume=true")[0] == 2
    assert "system_prompt was SHA-256" in capsys.readouterr().err


@pytest.mark.every(0)
@pytest.mark.parametrize("step", [1, 2, 3])
def test_no_checkpoint_has_steps_on_a_base_that_was_written_to(command, model_folder, tmp_path, monkeypatch, step):
    base = shutil.copytree(model_folder("llama"), tmp_path / "base")
    weights = base / "model.safetensors"
    own, extra = weights.read_bytes(), ("--num_train_epochs", "3", "--model_name_or_path", str(base), EVERY_STEP)
    _, unbroken = command(*extra, folder="unbroken")
    other = save({name: 1.5 * tensor for name, tensor in load(own).items()}, metadata={"format": "pt"})
    append = RecordLog.append

    def append_and_write(self, record):
        append(self, record)
        if isinstance(record, StepRecord) and record.step == step:
            weights.write_bytes(other)

    with monkeypatch.context() as patch:
        patch.setattr(RecordLog, "append", append_and_write)
        assert command(*extra, folder="broken")[0] == 2
    assert all(step_of(path) < step for path in checkpoints(tmp_path / "broken"))
    weights.write_bytes(own)
    assert command(*extra, "--set=resume=auto", folder="broken")[0] == 0
    assert_same_adapter(unbroken, tmp_path / "broken", rtol=0, atol=0)
