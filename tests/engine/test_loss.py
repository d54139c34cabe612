import math

import pytest
import torch

from lorakit.engine import LossSum, choose_kernels
from lorakit.engine import loss as loss_module
from lorakit.engine.loss import TargetLoss


def test_sums_add_up_and_the_mean_is_over_targets():
    total = LossSum(6.0, 2) + LossSum(1.0, 5)
    assert (total.nats, total.targets) == (7.0, 7)
    assert total.mean == 1.0
    assert total.perplexity == pytest.approx(math.e)


def test_extremes_do_not_raise():
    assert math.isnan(LossSum().mean)
    assert LossSum(1e9, 1).perplexity == math.inf


@pytest.mark.parametrize("chunk_targets", [1, 2, 4, 1000])
def test_target_loss_has_the_gradient_of_finite_differences_in_any_chunks(monkeypatch, chunk_targets):
    monkeypatch.setattr(loss_module, "_CHUNK_BYTES", 8 * 7 * chunk_targets)
    monkeypatch.setattr(loss_module, "_FEWEST_CHUNK_TARGETS", 1)
    torch.manual_seed(0)
    hidden = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    weight, targets = torch.randn(7, 5, dtype=torch.float64), torch.randint(0, 7, (9,))
    assert torch.autograd.gradcheck(lambda hidden: TargetLoss.apply(hidden, weight, targets), (hidden,))
    wanted = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(TargetLoss.apply(hidden, weight, targets), wanted)


def test_chunks_are_of_about_one_size_and_never_take_more_than_is_planned():
    vocabulary, dtype = 50_000, torch.bfloat16
    planned = [loss_module.loss_buffer_bytes(targets, vocabulary, dtype) for targets in range(1, 2000)]
    chunks = [loss_module._chunk_targets(targets, vocabulary, dtype) for targets in range(1, 2000)]
    assert planned == sorted(planned)
    assert all(chunk * vocabulary * 6 <= most for chunk, most in zip(chunks, planned, strict=True))
    assert planned[-1] == 160 * vocabulary * 6
    assert (chunks[159], chunks[160], chunks[599]) == (160, 81, 150)


def test_without_the_float32_copy_a_chunk_takes_twice_as_many_targets():
    assert choose_kernels(True, torch.device("cpu"), torch.bfloat16).is_used
    assert loss_module._chunk_targets(768, 50_000, torch.bfloat16) == 256
    assert loss_module.loss_buffer_bytes(10_000, 50_000, torch.bfloat16) == 330 * 50_000 * 2


def test_without_a_gradient_wanted_none_is_kept():
    loss = TargetLoss.apply(torch.randn(3, 5), torch.randn(7, 5), torch.tensor([0, 1, 2]))
    assert loss.grad_fn is None


def test_bfloat16_hidden_states_give_a_float32_loss():
    hidden = torch.randn(3, 5, dtype=torch.bfloat16, requires_grad=True)
    loss = TargetLoss.apply(hidden, torch.randn(7, 5, dtype=torch.bfloat16), torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.dtype is torch.float32
    assert hidden.grad.dtype is torch.bfloat16
