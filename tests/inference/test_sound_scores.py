"""Scores from which no word can be drawn are said in a sentence."""

import pytest
import torch

from lorakit.errors import SettingsError
from lorakit.inference.generation import _sound_scores


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_probabilities_that_are_none_are_said_in_a_sentence(bad):
    with pytest.raises(SettingsError, match="the scores of the next word are not finite numbers"), _sound_scores():
        torch.multinomial(torch.tensor([0.5, bad]), 1)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"size mismatch|shapes cannot"), _sound_scores():
        torch.zeros(2, 3) @ torch.zeros(2, 3)
