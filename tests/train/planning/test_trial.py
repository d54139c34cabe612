"""What is tried before the first step: the hardest part of the run, without a trace in what the run does."""

from dataclasses import dataclass

import pytest
import torch
from trained import ROWS, assert_same_adapter, recorded

from lorakit.engine import memory
from lorakit.errors import SettingsError
from lorakit.runs import PlanRecord, StepRecord
from lorakit.train import step, training
from lorakit.train.planning import fitting, trial
from lorakit.train.planning import plan as planning
from lorakit.train.planning.fitting import effort_before_training
from lorakit.train.planning.trial import Trial

EPOCH = ("--num_train_epochs", "1")


@pytest.fixture
def _not_probed(monkeypatch):
    """A longest micro-batch is too long for the pass that plans the memory."""
    monkeypatch.setattr(planning, "_MOST_PROBE_TOKENS", 0)


@pytest.mark.every(5)
@pytest.mark.parametrize("budget", ["auto", "80"])
@pytest.mark.parametrize("longest_for_a_probe", [0, 10_000])
def test_no_micro_batch_of_the_training_is_longer_than_the_one_tried_before_it(
    command, monkeypatch, budget, longest_for_a_probe
):
    monkeypatch.setattr(planning, "_MOST_PROBE_TOKENS", longest_for_a_probe)
    tried, trained = [], []

    def watch(module, name, seen):
        plain = getattr(module, name)

        def watched(model, micro_batch, *options):
            seen.append(micro_batch.tokens)
            assert seen is trained or not trained  # all is tried before anything is trained
            return plain(model, micro_batch, *options)

        monkeypatch.setattr(module, name, watched)

    watch(trial if longest_for_a_probe == 0 else memory, "summed_loss", tried)
    watch(step, "token_logprobs", trained)
    command("--num_train_epochs", "12", "--set", f"max_tokens_per_microbatch={budget}")
    assert len(tried) == 1
    assert len(trained) >= 36
    assert tried[0] == max(trained)


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "settings", [("--temperature", "0.9"), ("--set", "trainer_args={activation_checkpointing: true}")]
)
def test_what_was_tried_leaves_no_trace_in_the_result(command, monkeypatch, settings):
    arguments = (*EPOCH, "--num_train_epochs", "2", "--set", "lora_dropout=0.1", *settings)
    _, tried = command(*arguments, folder="tried")
    monkeypatch.setattr(fitting, "try_out", lambda prepared, plan, effort: (Trial(), plan))
    _, untried = command(*arguments, folder="untried")
    assert_same_adapter(tried, untried, rtol=0, atol=0)
    losses = [[(r.loss, r.grad_norm) for r in recorded(folder, StepRecord)] for folder in (tried, untried)]
    assert losses[0] == losses[1]
    assert (tried / "predictions.jsonl").read_text() == (untried / "predictions.jsonl").read_text()


def test_a_question_that_cannot_be_answered_stops_the_run_before_its_first_step(command, write_rows, capsys):
    long = {"text": "很长的问题。" * 400, "target": "好。"}
    code, folder = command(*EPOCH, f"--set=validation_file={write_rows([ROWS[0], long], 'long.json')}", family="gpt2")
    message = capsys.readouterr().err
    assert code == 2
    assert "long.json item 2: its question of" in message
    assert "leaves no room for an answer in this model's 1024" in message
    assert "hint: shorten the question" in message
    assert not (folder / "events.jsonl").exists()


def test_a_fault_in_answering_leaves_the_run_before_where_it_is(command, monkeypatch, capsys):
    _, folder = command(*EPOCH)
    before = (folder / "events.jsonl").read_text()

    def fail(*_, **__):
        raise SettingsError("no answer from this model", "choose another")

    monkeypatch.setattr(trial, "answer_batch", fail)
    code, _ = command(*EPOCH)
    assert code == 2
    assert "no answer from this model" in capsys.readouterr().err
    assert (folder / "events.jsonl").read_text() == before
    assert not (folder / "previous").exists()


@pytest.mark.usefixtures("_not_probed")
def test_where_memory_runs_out_fewer_tokens_are_computed_at_once(command, monkeypatch, capsys):
    plain = trial.summed_loss

    def short_of_memory(model, micro_batch):
        if micro_batch.rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(model, micro_batch)

    monkeypatch.setattr(trial, "summed_loss", short_of_memory)
    code, folder = command(*EPOCH, "--per_device_train_batch_size", "5")
    assert code == 0
    assert "out of memory with" in capsys.readouterr().err
    longest = max(record.tokens for record in recorded(folder, StepRecord))
    assert recorded(folder, PlanRecord)[0].max_tokens < longest


def test_answers_that_do_not_fit_are_named_with_the_setting_that_helps(command, monkeypatch, capsys):
    monkeypatch.setattr(trial, "free_bytes", lambda device: 100)
    code, folder = command(*EPOCH)
    message = capsys.readouterr().err
    assert code == 2
    assert "2 answers at once, of up to 4 tokens, do not fit into memory" in message
    assert "--set per_device_eval_batch_size=1" in message
    assert not (folder / "events.jsonl").exists()


@dataclass(frozen=True)
class Estimated:
    seconds: float
    tokens_to_train: float = 10_000.0


@pytest.mark.parametrize(("seconds", "tokens"), [(1, 100), (1799, 100), (1800, 500), (90_000, 500)])
def test_a_short_run_spends_a_hundredth_of_its_tokens_on_it_and_a_long_one_a_twentieth(seconds, tokens):
    effort = effort_before_training(Estimated(seconds))
    assert (effort.tokens, effort.seconds) == (tokens, 0.5)


def test_what_would_take_too_large_a_part_of_a_short_run_is_left_out(command, monkeypatch, capsys):
    monkeypatch.setattr("lorakit.train.planning.plan.probe", lambda *_: memory.Probe(1000.0, 0.1))
    assert command(*EPOCH)[0] == 0
    said = capsys.readouterr().err
    assert (
        "tried before the first step: the longest question with 2 tokens each; the longest micro-batch comes with"
        in said
    )


@pytest.mark.usefixtures("_not_probed")
def test_the_first_step_begins_with_a_micro_batch_as_long_as_any(command, monkeypatch, capsys):
    monkeypatch.setattr(fitting, "try_out", lambda prepared, plan, effort: (Trial(), plan))
    _, plain = command(*EPOCH, folder="plain")
    assert "there may be micro-batches of" in capsys.readouterr().err  # a hundredth of so short a run is nothing
    monkeypatch.setattr(training, "SHARE_OF_SHORT_RUN", 1.0)
    computed = []
    own = step.token_logprobs
    monkeypatch.setattr(
        step, "token_logprobs", lambda model, batch, *more: computed.append(batch) or own(model, batch, *more)
    )
    _, tried = command(*EPOCH, folder="tried")
    assert computed[0].tokens >= max(batch.tokens for batch in computed)
    assert computed[0].tokens > computed[0].row_starts[2]  # two rows a step, and more than those in it
    assert_same_adapter(plain, tried, rtol=1e-5, atol=1e-7)
    steps = [[(r.rows, r.tokens, r.target_tokens) for r in recorded(folder, StepRecord)] for folder in (plain, tried)]
    assert steps[0] == steps[1]


def test_a_longest_micro_batch_that_is_too_much_for_the_first_pass_is_not_the_end(command, monkeypatch, capsys):
    plain = memory.summed_loss

    def short_of_memory(model, micro_batch):
        if micro_batch.rows > 1 and micro_batch.tokens > planning.PROBE_TOKENS:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(model, micro_batch)

    monkeypatch.setattr(memory, "summed_loss", short_of_memory)
    monkeypatch.setattr(trial, "summed_loss", short_of_memory)
    code, folder = command(*EPOCH, "--per_device_train_batch_size", "5")
    assert code == 0
    assert "out of memory with" in capsys.readouterr().err
    assert recorded(folder, PlanRecord)[0].max_tokens <= planning.PROBE_TOKENS
