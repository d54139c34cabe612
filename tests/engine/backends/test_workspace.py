import torch

from lorakit.engine.backends.workspace import Workspace

NUMBERS = {dtype: torch.empty(0, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}


def test_the_next_tensor_of_a_name_takes_the_place_of_the_last():
    workspace = Workspace()
    first, second = (workspace.take("a", shape, NUMBERS[torch.float32]) for shape in ((3, 5), (5, 2)))
    assert (first.shape, second.shape) == ((3, 5), (5, 2))
    assert second.data_ptr() == first.data_ptr()


def test_a_larger_tensor_leaves_what_is_still_in_use_alone():
    workspace = Workspace()
    small = workspace.take("a", (2,), NUMBERS[torch.float32]).fill_(1)
    workspace.take("a", (4_000,), NUMBERS[torch.float32]).fill_(2)
    assert small.tolist() == [1, 1]


def test_names_formats_and_models_have_places_of_their_own():
    workspaces = [Workspace(), Workspace()]
    tensors = [one.take(name, (4,), like) for one in workspaces for name in ("one", "two") for like in NUMBERS.values()]
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    assert [tensor.dtype for tensor in tensors[:2]] == list(NUMBERS)


def test_what_a_validation_has_asked_for_first_training_may_write_to():
    workspace = Workspace()
    with torch.inference_mode():
        workspace.take("a", (9,), torch.zeros(1)).fill_(1)
    assert workspace.take("a", (9,), torch.zeros(1)).copy_(torch.arange(9.0)).sum() == 36
