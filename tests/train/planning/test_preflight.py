"""A plan tries the hardest part of a training and writes nothing."""

import pytest
import torch

from lorakit.engine import memory
from lorakit.train.planning import trial


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_plan_says_what_a_training_takes_and_leaves_nothing(command, capsys, family):
    code, folder = command(task="plan", family=family)
    said = capsys.readouterr().out
    assert code == 0
    for name in (
        "memory planned",
        "memory taken",
        "longest micro-batch",
        "training",
        "validation",
        "answers",
        "whole run",
    ):
        assert f"\n  {name}" in said
    assert "to change                 nothing" in said
    assert not folder.exists()


def test_what_is_tried_is_the_longest_micro_batch_of_the_rows(command, monkeypatch):
    seen = []
    plain = trial.summed_loss

    def watched(model, batch):
        seen.append((batch.rows, batch.tokens))
        return plain(model, batch)

    monkeypatch.setattr(trial, "summed_loss", watched)
    command("--per_device_train_batch_size", "3", task="plan")
    assert {rows for rows, _ in seen} == {3}
    command("--per_device_train_batch_size", "1", task="plan")
    assert seen[-1] == (1, max(tokens for rows, tokens in seen if rows == 1))


def test_a_run_that_does_not_fit_is_told_what_would_make_it_fit(command, monkeypatch, capsys):
    free = memory.free_bytes
    monkeypatch.setattr(memory, "free_bytes", lambda device: -(10**12))
    assert free(torch.device("cpu")) > 0
    command(task="plan")
    assert "are needed where there are" in capsys.readouterr().err


def test_a_pass_that_runs_out_of_memory_is_a_clear_error(command, monkeypatch, capsys):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(trial, "summed_loss", fail)
    assert command(task="plan")[0] == 2
    assert "tokens at once do not fit into memory" in capsys.readouterr().err
