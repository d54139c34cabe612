"""Scores from which no word can be drawn are said in a sentence."""

import pytest
import torch

from lorakit.errors import RunError, SettingsError
from lorakit.inference.generation import _numbers, _sound_scores


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_probabilities_that_are_none_are_said_in_a_sentence(bad):
    with pytest.raises(SettingsError, match="the scores of the next word are not finite numbers"), _sound_scores():
        torch.multinomial(torch.tensor([0.5, bad]), 1)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"size mismatch|shapes cannot"), _sound_scores():
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def test_scores_that_are_no_numbers_have_no_likeliest_word():
    scores = torch.tensor([[0.5, 1.0]])
    assert _numbers(torch.tensor([[1]]), scores) is scores
    with pytest.raises(RunError, match="computes no numbers"):
        _numbers(torch.tensor([[1]]), torch.tensor([[0.5, float("nan")]]))
