import pytest
import torch

from lorakit.engine import Scores
from lorakit.train.objectives.sft import SupervisedLoss


def test_the_loss_is_minus_the_sum_of_all_log_probabilities_and_what_the_model_adds_for_each():
    one = Scores(torch.tensor([-1.0, -2.0]), auxiliary=torch.tensor(0.5))
    other = Scores(torch.tensor([-4.0]))
    assert SupervisedLoss().loss([one, other]).item() == pytest.approx(1 + 2 + 2 * 0.5 + 4)


def test_its_gradient_is_minus_one_for_each_token():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    SupervisedLoss().loss([Scores(logprobs)]).backward()
    assert logprobs.grad.tolist() == [-1, -1]
