"""Advice on the learning rate: short runs from the same start, and a configuration with its comments."""

import math
import re

import pytest
import yaml

from lorakit.errors import RunError
from lorakit.train.planning import advising
from lorakit.train.planning.short_runs import ShortRuns, Tried, best_of, rate_for
from lorakit.train.trainer import LoraTrainer


@pytest.fixture
def advised(command, tmp_path):
    """Return a function that asks for advice and returns exit code and folder."""

    def ask(*extra, text="# mine\nlearning_rate: 5e-4  # to be found\nlora_dropout: 0\n"):
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        return command("--config", str(file), *extra, task="advise", folder="advice")

    return ask


def test_the_best_of_the_rates_is_written_into_a_copy_with_its_comments(advised, capsys, tmp_path):
    code, folder = advised("--num_train_epochs", "20")
    assert code == 0
    said = capsys.readouterr()
    text = (folder / "advised.yaml").read_text()
    rate = float(yaml.safe_load(text)["learning_rate"])
    [tried] = re.findall(r"(\S+) is the best of those tried, for 16 steps; the best rate for 60 is lower", said.out)
    assert float(tried) in (1.7e-4, 5e-4, 1.5e-3)
    assert rate == pytest.approx(float(tried) * (16 / 60) ** 0.5, rel=0.05)
    assert f"learning_rate {rate:g} is advised; the rule's own is 0.0005" in said.out
    assert text.startswith("# mine\nlearning_rate: ")
    assert "# to be found\n" in text
    assert (tmp_path / "mine.yaml").read_text().startswith("# mine\nlearning_rate: 5e-4  #")
    assert (folder / "advice.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in folder.iterdir() if not file.name.startswith(".")) == [
        "advice.png",
        "advised.yaml",
    ]


def test_every_try_begins_at_the_same_start_and_the_better_two_go_on(command, monkeypatch):
    losses = {1.7e-4: 3.0, 5e-4: 1.0, 1.5e-3: 2.0}
    seen = []

    def loss_after(self, rate, steps):
        seen.append((rate, steps))
        return losses[rate] / steps

    monkeypatch.setattr(ShortRuns, "loss_after", loss_after)
    monkeypatch.setattr(advising, "_drawn", lambda tried, best: b"")
    command("--num_train_epochs", "100", task="advise", folder="advice")
    first, second = seen[:3], seen[3:]
    assert {rate for rate, _ in first} == set(losses)
    assert [rate for rate, _ in second] == [5e-4, 1.5e-3]
    assert {steps for _, steps in second} == {2 * first[0][1]}


@pytest.mark.every(0)
def test_the_same_rate_from_the_same_start_gives_the_same_loss(command, monkeypatch):
    found = []
    loss_after = ShortRuns.loss_after

    def twice(self, rate, steps):
        found.append([loss_after(self, rate, steps) for _ in range(2)])
        found.append([loss_after(self, rate, steps, validates=True) for _ in range(2)])
        return found[0][0]

    monkeypatch.setattr(ShortRuns, "loss_after", twice)
    monkeypatch.setattr(advising, "_FACTORS", (1.0,))
    command("--num_train_epochs", "4", task="advise", folder="advice")
    assert found
    assert all(first == second for first, second in found)


def test_without_rows_to_validate_on_some_are_held_back(command, capsys):
    code, _ = command("--num_train_epochs", "4", "--set=validation_file=null", task="advise", folder="advice")
    assert code == 0
    assert "20% of the training rows are held back" in capsys.readouterr().err


def test_where_much_is_forgotten_the_base_s_answers_are_advised_to_be_trained_too(command, monkeypatch, capsys):
    monkeypatch.setattr(ShortRuns, "loss_after", lambda self, rate, steps: rate)
    monkeypatch.setattr(ShortRuns, "forgotten", lambda self: 0.75)
    monkeypatch.setattr(advising, "_drawn", lambda tried, best: b"")
    command("--set=max_new_tokens=8", task="advise", folder="advice")
    said = capsys.readouterr()
    assert "the base's answers to general questions are 0.75 nats a token less likely" in said.out
    assert "train answers of the base too: --set replay=8" in said.err


@pytest.mark.parametrize(("steps", "rate"), [(16, 1e-3), (64, 5e-4), (1600, 1e-4)])
def test_the_rate_of_short_runs_is_lowered_by_the_root_of_the_steps(steps, rate):
    assert rate_for(Tried(1e-3, 16, 0.4), steps) == rate


def test_a_rate_with_which_the_loss_ends_is_the_worst_and_the_others_go_on(command, monkeypatch, capsys):
    real = LoraTrainer.train

    def train(self, *args, **kwargs):
        if self.args.learning_rate > 1e-3:
            raise RunError("step 3: the loss is not finite", "lower it")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LoraTrainer, "train", train)
    code, folder = command("--num_train_epochs", "2", task="advise", folder="advice")
    assert code == 0
    assert "inf" in capsys.readouterr().out
    assert (folder / "advice.png").is_file()


def test_where_no_rate_gives_a_loss_there_is_no_advice():
    with pytest.raises(RunError, match="no learning_rate that was tried gave a loss"):
        best_of([Tried(1e-3, 8, math.inf), Tried(1e-4, 8, math.inf)])


@pytest.mark.every(0)
def test_ranks_are_tried_where_it_is_asked_for_with_the_best_rate(advised, monkeypatch, capsys):
    seen = []
    real = ShortRuns.loss_after

    def loss_after(self, rate, steps):
        seen.append((self._prepared.config.lora_r, rate, steps))
        return real(self, rate, steps)

    monkeypatch.setattr(ShortRuns, "loss_after", loss_after)
    code, folder = advised("--set=advise_ranks=[2, 8, 4]")
    assert code == 0
    assert [rank for rank, *_ in seen] == [8, 8, 8, 8, 8, 2, 4]
    assert len({tried[1:] for tried in seen[5:]}) == 1
    assert yaml.safe_load((folder / "advised.yaml").read_text())["lora_r"] in (2, 4, 8)
    assert "lora_r" in capsys.readouterr().out


def test_only_the_longest_runs_decide():
    tried = [Tried(1e-3, 8, 0.1), Tried(1e-4, 16, 0.5), Tried(5e-4, 16, 0.4)]
    assert best_of(tried) == tried[2]
    drawn = advising._drawn(tried, tried[2])
    assert drawn.startswith(b"\x89PNG")
