import torch

from lorakit.engine.ops.scratch import scratch


def test_the_next_tensor_of_a_name_takes_the_place_of_the_last():
    first = scratch("a test", (3, 5), torch.float32)
    second = scratch("a test", (5, 2), torch.float32)
    assert (first.shape, second.shape) == ((3, 5), (5, 2))
    assert second.data_ptr() == first.data_ptr()


def test_a_larger_tensor_leaves_what_is_still_in_use_alone():
    small = scratch("a growing test", (2,), torch.float32).fill_(1)
    scratch("a growing test", (4_000,), torch.float32).fill_(2)
    assert small.tolist() == [1, 1]


def test_names_and_formats_have_places_of_their_own():
    tensors = [scratch(name, (4,), dtype) for name in ("one", "two") for dtype in (torch.float32, torch.bfloat16)]
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    assert [tensor.dtype for tensor in tensors] == [torch.float32, torch.bfloat16] * 2
