"""Runs from the command line on tiny models: what they leave, and that it is right."""

import json
import sys
import weakref

import pytest
import torch
import yaml
from conftest import SOME_FAMILIES
from peft import PeftModel
from safetensors.torch import load_file
from trained import ROWS, adapter_weights, assert_same_adapter, interrupt_at, recorded
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import is_bitsandbytes_available

from lorakit.cli import main
from lorakit.engine import Scores
from lorakit.runs import EvaluationRecord, StepRecord, read_records
from lorakit.train import step
from lorakit.train.objectives.sft import SupervisedLoss


@pytest.mark.usefixtures("draws_curve")
@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_every_family_trains_and_leaves_what_is_promised(command, family):
    code, folder = command("--num_train_epochs", "2", "--learning_rate", "1e-2", family=family)
    assert code == 0
    present = {path.name for path in folder.iterdir()}
    promised = {"lora_model", "report.html", "eval_results.json", "loss_curve.png", "events.jsonl", "config_used.yaml"}
    assert promised <= present
    assert (folder / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    records = list(read_records(folder))
    steps = [record for record in records if isinstance(record, StepRecord)]
    validations = [record for record in records if isinstance(record, EvaluationRecord)]
    assert [record.step for record in steps] == [1, 2, 3, 4, 5, 6]
    assert [record.rows for record in steps] == [2, 2, 1] * 2
    assert [record.step for record in validations] == [3, 6]
    assert all(record.grad_norm > 0 and record.target_tokens > 0 and record.step_seconds > 0 for record in steps)
    assert steps[-1].epoch == 2
    assert steps[-1].loss < steps[0].loss
    results = json.loads((folder / "eval_results.json").read_text())
    keys = {"loss", "perplexity", "exact_match", "chrf", "bleu", "rouge_l", "rows", "target_tokens", "bleu_rows"}
    assert keys <= set(results["base"])
    assert keys <= set(results["tuned"])
    assert results["tuned"]["loss"] == pytest.approx(validations[-1].loss)
    assert results["tuned"]["loss"] < results["base"]["loss"]


def test_plain_peft_on_a_fresh_base_gives_the_recorded_validation_loss(command, model_folder):
    _, folder = command("--num_train_epochs", "2", "--learning_rate", "1e-2")
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder / "lora_model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "lora_model")
    nats = targets = 0
    for row in ROWS[:2]:
        question = [{"role": "user", "content": row["text"]}]
        options = {"tokenize": True, "return_dict": False}
        prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, **options)
        answer = [{"role": "assistant", "content": row["target"]}]
        ids = torch.tensor([tokenizer.apply_chat_template(question + answer, **options)])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        count = int((labels[:, 1:] != -100).sum())
        nats += model(input_ids=ids, labels=labels).loss.item() * count
        targets += count
    recorded = [record for record in read_records(folder) if isinstance(record, EvaluationRecord)][-1]
    assert recorded.target_tokens == targets
    assert recorded.loss == pytest.approx(nats / targets, rel=1e-4)


def test_only_the_adapter_is_saved_and_the_base_is_untouched(command, model_folder):
    before = load_file(model_folder("llama") / "model.safetensors")
    _, folder = command("--num_train_epochs", "1")
    names = {path.name for path in (folder / "lora_model").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "lorakit.json"} <= names
    assert "model.safetensors" not in names
    after = load_file(model_folder("llama") / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.every(2)
@pytest.mark.parametrize(("batch", "accumulation"), [(2, 2), (1, 4)])
def test_the_user_s_batch_is_one_step_however_it_is_cut(command, batch, accumulation):
    whole = ("--per_device_train_batch_size", "4", "--num_train_epochs", "2")
    _, first = command(*whole, folder="whole")
    cut = ("--per_device_train_batch_size", str(batch), "--set", f"gradient_accumulation_steps={accumulation}")
    _, second = command(*cut, "--num_train_epochs", "2", folder="cut")
    losses = [
        [record.loss for record in read_records(folder) if isinstance(record, StepRecord)] for folder in (first, second)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    rows = [record.rows for record in read_records(second) if isinstance(record, StepRecord)]
    assert rows == [4, 1, 4, 1]
    assert_same_adapter(first, second, rtol=1e-4, atol=1e-6)


def test_the_configuration_used_can_be_used_again(command, tmp_path):
    _, first = command("--num_train_epochs", "1", folder="first")
    used = first / "config_used.yaml"
    assert yaml.safe_load(used.read_text())["num_train_epochs"] == 1
    assert main(["--task", "train", "--config", str(used), "--output_dir", str(tmp_path / "second")]) == 0
    assert_same_adapter(first, tmp_path / "second", rtol=0, atol=0)


@pytest.mark.every(4)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.usefixtures("half_kernel")
def test_ctrl_c_saves_a_checkpoint_and_the_resumed_run_equals_the_unbroken_one(command, monkeypatch, capsys, dtype):
    settings = ("--num_train_epochs", "3", "--set", "lora_dropout=0.1", "--set", f"torch_dtype={dtype}")
    _, unbroken = command(*settings, folder="unbroken")
    with monkeypatch.context() as patched:
        interrupt_at(patched, step=4)
        code, stopped = command(*settings, folder="stopped")
    assert code == 130
    message = capsys.readouterr().err
    assert "stopped at step" in message
    assert "--set resume=true" in message
    assert not (stopped / "lora_model").exists()
    code, resumed = command(*settings, "--set", "resume=true", folder="stopped")
    assert code == 0
    assert_same_adapter(unbroken, resumed, rtol=0, atol=0)
    losses = [
        [(record.step, record.loss) for record in read_records(folder) if isinstance(record, StepRecord)]
        for folder in (unbroken, resumed)
    ]
    assert losses[0] == losses[1]


def test_resume_without_a_checkpoint_is_refused(command, capsys):
    code, _ = command("--set", "resume=true")
    assert code == 2
    assert "there is no whole checkpoint in" in capsys.readouterr().err


def test_resume_with_other_settings_is_refused(command, capsys):
    command("--num_train_epochs", "1")
    code, folder = command("--num_train_epochs", "1", "--lora_r", "4", "--set", "resume=true")
    assert code == 2
    assert "lora_r was 8 and is 4" in capsys.readouterr().err
    assert (folder / "lora_model").is_dir()


def test_a_run_of_a_version_with_fewer_settings_is_resumed_and_what_is_written_later_does_not_matter(command):
    _, folder = command("--num_train_epochs", "1")
    identity = json.loads((folder / "run.json").read_text())
    assert not {"format", "export_dir", "push_to"} & set(identity["settings"])
    del identity["settings"]["min_pixels"]  # as if there had been none
    (folder / "run.json").write_text(json.dumps(identity))
    code, _ = command("--num_train_epochs", "1", "--push_to", "a/b", "--export_dir", "x", "--set", "resume=true")
    assert code == 0


def test_an_earlier_run_is_kept_aside(command):
    _, folder = command("--num_train_epochs", "1")
    first = adapter_weights(folder)
    command("--num_train_epochs", "2")
    kept = load_file(folder / "previous" / "1" / "lora_model" / "adapter_model.safetensors")
    assert all(torch.equal(first[name], kept[name]) for name in first)


def test_a_loss_that_is_not_finite_names_the_rows_of_its_step(command, monkeypatch, capsys):
    losses = iter([1.0, float("nan")])
    plain = SupervisedLoss.loss
    monkeypatch.setattr(SupervisedLoss, "loss", lambda self, scores: plain(self, scores) * next(losses))
    code, folder = command("--num_train_epochs", "1")
    message = capsys.readouterr().err
    assert code == 2
    assert message.splitlines()[-2].startswith("error: step 2: the loss is not finite, on ")
    assert message.count("train.json item") == 2
    assert not (folder / "lora_model").exists()


@pytest.mark.every(0)
@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_the_token_budget_changes_nothing_but_time_and_memory(command, family):
    def of(rows, budget, *more):
        arguments = ("--num_train_epochs", "1", "--per_device_train_batch_size", rows)
        return (*arguments, "--set", f"max_tokens_per_microbatch={budget}", *more)

    runs = {budget: of("4", budget) for budget in ("1000000", "256", "64", "16")}
    runs["accumulated"] = of("2", "64", "--set", "gradient_accumulation_steps=2")
    folders = {name: command(*arguments, family=family, folder=name)[1] for name, arguments in runs.items()}
    losses = {
        name: [record.loss for record in read_records(folder) if isinstance(record, StepRecord | EvaluationRecord)]
        for name, folder in folders.items()
    }
    for name, folder in folders.items():
        assert losses[name] == pytest.approx(losses["1000000"], rel=1e-5), name
        # where a gradient is all but zero, Adam makes a step of its rounding: 5e-6 is 1/40 of a step
        assert_same_adapter(folders["1000000"], folder, rtol=1e-4, atol=5e-6)


@pytest.mark.every(0)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dropout_belongs_to_the_row_however_a_step_is_cut(command, family):
    def run(folder, batch, accumulation, budget, seed=42):
        settings = {"lora_dropout": 0.3, "max_tokens_per_microbatch": budget, "seed": seed}
        settings |= {"gradient_accumulation_steps": accumulation}
        given = ("--num_train_epochs", "1", "--per_device_train_batch_size", str(batch))
        return command(
            *given, *(f"--set={name}={value}" for name, value in settings.items()), family=family, folder=folder
        )

    _, whole = run("whole", 4, 1, 1_000_000)
    for number, how in enumerate([(4, 1, 64), (4, 1, 16), (2, 2, 64)]):
        _, cut = run(f"cut-{number}", *how)
        assert_same_adapter(whole, cut, rtol=1e-4, atol=5e-6)
    losses = [[record.loss for record in recorded(folder, StepRecord)] for folder in (whole, cut)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    _, plain = command("--num_train_epochs", "1", "--per_device_train_batch_size", "4", family=family, folder="plain")
    assert recorded(plain, StepRecord)[1].loss != pytest.approx(losses[0][1], rel=1e-4)  # something is dropped


def test_nothing_of_a_micro_batch_is_left_when_the_next_one_begins(command, monkeypatch):
    plain, earlier = step.token_logprobs, []

    def watched(*arguments, **options):
        assert not earlier or earlier[-1]() is None
        scores = plain(*arguments, **options)
        earlier.append(weakref.ref(scores[0].logprobs))
        return scores

    monkeypatch.setattr(step, "token_logprobs", watched)
    command("--num_train_epochs", "1", "--per_device_train_batch_size", "3", "--set", "max_tokens_per_microbatch=20")
    assert len(earlier) == len(ROWS)


def test_a_step_that_does_not_fit_is_done_again_in_smaller_parts(command, monkeypatch, capsys):
    plain = step.token_logprobs

    def short_of_memory(model, micro_batch, *options):
        if micro_batch.rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(model, micro_batch, *options)

    _, whole = command("--num_train_epochs", "1", folder="whole")
    monkeypatch.setattr(step, "token_logprobs", short_of_memory)
    code, small = command("--num_train_epochs", "1", folder="small")
    assert code == 0
    assert "out of memory: the step is done again with at most" in capsys.readouterr().err
    assert_same_adapter(whole, small, rtol=1e-4, atol=1e-6)


def test_a_row_that_does_not_fit_is_named_with_the_settings_that_help(command, monkeypatch, capsys):
    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "token_logprobs", no_memory)
    code, _ = command("--num_train_epochs", "1")
    message = capsys.readouterr().err
    assert code == 2
    assert "tokens does not fit into memory" in message
    assert "lower max_length" in message


def test_a_gradient_of_zero_stops_the_run(command, monkeypatch, capsys):
    nothing = lambda model, *_: [Scores(sum(p.sum() for p in model.parameters()).view(1) * 0)]  # noqa: E731
    monkeypatch.setattr(step, "token_logprobs", nothing)
    code, _ = command("--num_train_epochs", "1")
    assert code == 2
    assert "the gradient is exactly zero" in capsys.readouterr().err


def test_without_validation_rows_the_training_rows_are_answered(command):
    code, folder = command("--num_train_epochs", "1", "--set", "validation_file=null")
    assert code == 0
    assert json.loads((folder / "eval_results.json").read_text())["data"].endswith("train.json")
    assert not any(isinstance(record, EvaluationRecord) for record in read_records(folder))


def test_rows_that_are_not_used_are_all_written_down(command, write_rows, capsys):
    rows = write_rows([*ROWS, *[{"text": "q"}] * 12], "with_broken.json")
    _, folder = command("--num_train_epochs", "1", "--set", f"train_file={rows}")
    assert len((folder / "unused_rows.txt").read_text().splitlines()) == 12
    assert "... and 2 more" in capsys.readouterr().err


def test_trainer_args_reach_the_trainer(command):
    arguments = "trainer_args={max_steps: 2, save_strategy: 'no', eval_strategy: 'no', lr_scheduler_type: constant}"
    _, folder = command("--set", arguments)
    records = [record for record in read_records(folder) if isinstance(record, StepRecord)]
    assert [record.step for record in records] == [1, 2]
    assert records[0].learning_rate == records[1].learning_rate == 5e-4
    assert not list(folder.glob("checkpoint-*"))


@pytest.mark.parametrize(
    "arguments", ["{lr_scheduler_type: wavy}", "{load_best_model_at_end: true, save_strategy: 'no'}"]
)
def test_a_value_that_transformers_refuses_is_a_fault_of_the_settings(command, capsys, arguments):
    code, _ = command("--set", f"trainer_args={arguments}")
    message = capsys.readouterr().err
    assert code == 2, message
    assert "\nerror: trainer_args: " in f"\n{message}"


@pytest.fixture
def forgetful_transformers():
    """transformers remembers which packages are there; what a test pretends must not outlast it."""
    is_bitsandbytes_available.cache_clear()
    yield
    is_bitsandbytes_available.cache_clear()


@pytest.mark.usefixtures("forgetful_transformers")
@pytest.mark.parametrize("arguments", ["{report_to: tensorboard}", "{optim: adamw_bnb_8bit}"])
def test_a_package_that_is_missing_is_named(command, monkeypatch, capsys, arguments):
    for package in ("tensorboard", "tensorboardX", "torch.utils.tensorboard", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, package, None)
    code, _ = command("--set", f"trainer_args={arguments}")
    message = capsys.readouterr().err
    assert code == 2, message
    assert "error: trainer_args: " in message
    assert "install" in message


def test_activation_checkpointing_changes_nothing_but_memory(command):
    _, plain = command("--num_train_epochs", "1", folder="plain")
    _, saving = command("--num_train_epochs", "1", "--set", "trainer_args={activation_checkpointing: true}", folder="s")
    assert_same_adapter(plain, saving, rtol=1e-4, atol=1e-6)


def test_a_run_of_a_single_step_learns(command, write_rows):
    rows = write_rows(ROWS[:1], "one.json")
    code, folder = command("--num_train_epochs", "1", "--set", f"train_file={rows}")
    assert code == 0
    [step] = [record for record in read_records(folder) if isinstance(record, StepRecord)]
    assert step.learning_rate == 5e-4  # transformers' warm-up would take the first step at zero


def test_float16_on_a_cpu_is_replaced_and_said(command, capsys):
    command("--num_train_epochs", "1", "--set", "torch_dtype=float16", "--set", "cpu_kernels=false")
    assert "float16 is replaced with" in capsys.readouterr().err


@pytest.mark.usefixtures("half_kernel")
def test_float16_on_a_cpu_trains_what_float32_trains(command, capsys):
    losses = {}
    for dtype in ("float32", "float16"):
        _, folder = command("--num_train_epochs", "3", "--set", f"torch_dtype={dtype}")
        losses[dtype] = [step.loss for step in read_records(folder) if isinstance(step, StepRecord)]
        saved = load_file(folder / "lora_model" / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert "float16 (as set in torch_dtype; sums in float32)" in capsys.readouterr().err
    assert losses["float16"] == pytest.approx(losses["float32"], rel=0.01)
    assert losses["float16"] != losses["float32"]


def test_the_plan_is_printed_before_the_first_step(command, capsys):
    command("--num_train_epochs", "1")
    plan = capsys.readouterr().err
    for fact in (
        "(Llama)",
        "float32 (as set in torch_dtype)",
        "trainable parameters",
        "5 rows from",
        "steps",
        "3 of 2 rows",
    ):
        assert fact in plan


def test_a_base_of_few_bits_is_trained_evaluated_and_named_where_it_is_another(command, capsys):
    pytest.importorskip("bitsandbytes")
    quantised = "--set=load_in_8bit=true"
    code, folder = command("--num_train_epochs", "4", "--learning_rate", "1e-2", quantised)
    assert code == 0
    assert json.loads((folder / "lora_model" / "lorakit.json").read_text())["quantization"] == "8bit"
    results = json.loads((folder / "eval_results.json").read_text())
    assert results["tuned"]["loss"] < results["base"]["loss"]
    capsys.readouterr()
    assert command(quantised, task="evaluate")[0] == 0
    assert "the base weights are in" not in capsys.readouterr().err
    assert command(task="evaluate")[0] == 0
    assert "in full precision, in training they were in 8bit" in capsys.readouterr().err


def test_four_bits_are_refused_on_a_cpu(command, capsys):
    pytest.importorskip("bitsandbytes")
    assert command("--set=load_in_4bit=true")[0] == 2
    assert "load_in_4bit: not on a CPU" in capsys.readouterr().err
