import pytest
import torch
from backends import backend_of_kind

from lorakit.engine.ops import token_logprobs as module
from lorakit.engine.ops.token_logprobs import TokenLogprobs

PLAIN = backend_of_kind(False)


@pytest.mark.parametrize("chunk_targets", [1, 2, 4, 1000])
def test_log_probabilities_have_the_gradient_of_finite_differences_in_any_chunks(monkeypatch, chunk_targets):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 8 * 7 * chunk_targets)
    monkeypatch.setattr(module, "_FEWEST_CHUNK_TARGETS", 1)
    torch.manual_seed(0)
    hidden = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    weight, targets = torch.randn(7, 5, dtype=torch.float64), torch.randint(0, 7, (9,))
    assert torch.autograd.gradcheck(lambda hidden: TokenLogprobs.apply(hidden, weight, targets, PLAIN), (hidden,))
    wanted = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(TokenLogprobs.apply(hidden, weight, targets, PLAIN), -wanted)


def test_chunks_are_of_about_one_size_and_never_take_more_than_is_planned():
    vocabulary, dtype = 50_000, torch.bfloat16
    planned = [module.logits_bytes(targets, vocabulary, dtype, PLAIN) for targets in range(1, 2000)]
    chunks = [module._chunk_targets(targets, vocabulary, dtype, PLAIN) for targets in range(1, 2000)]
    assert planned == sorted(planned)
    assert all(chunk * vocabulary * 6 <= most for chunk, most in zip(chunks, planned, strict=True))
    assert planned[-1] == 160 * vocabulary * 6
    assert (chunks[159], chunks[160], chunks[599]) == (160, 81, 150)


def test_without_the_float32_copy_a_chunk_takes_twice_as_many_targets():
    by = backend_of_kind(True, torch.bfloat16)
    assert module._chunk_targets(768, 50_000, torch.bfloat16, by) == 256
    assert module.logits_bytes(10_000, 50_000, torch.bfloat16, by) == 330 * 50_000 * 2


def test_without_a_gradient_wanted_none_is_kept():
    found = TokenLogprobs.apply(torch.randn(3, 5), torch.randn(7, 5), torch.tensor([0, 1, 2]), PLAIN)
    assert found.grad_fn is None


def test_bfloat16_hidden_states_give_float32():
    hidden = torch.randn(3, 5, dtype=torch.bfloat16, requires_grad=True)
    found = TokenLogprobs.apply(hidden, torch.randn(7, 5, dtype=torch.bfloat16), torch.tensor([0, 1, 2]), PLAIN)
    found.sum().backward()
    assert found.dtype is torch.float32
    assert hidden.grad.dtype is torch.bfloat16


def test_a_model_that_keeps_other_hidden_states_than_those_asked_for_is_stopped():
    with pytest.raises(RuntimeError, match="returned 4 hidden states for 3 targets"):
        TokenLogprobs.apply(torch.randn(4, 5), torch.randn(7, 5), torch.tensor([0, 1, 2]), PLAIN)
