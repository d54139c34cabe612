import pytest
import torch

from lorakit.engine import Ranks


def test_shares_are_disjoint_and_complete():
    items = list(range(7))
    shares = [Ranks(index, 3).share(items) for index in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_one_process_has_everything_as_it_comes():
    stream = iter("abc")
    assert Ranks().share("abc") == "abc"
    assert Ranks().collect(stream) is stream
    assert Ranks().is_first


def test_the_launcher_s_numbers_are_read(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Ranks.of_environment() == Ranks(2, 4)
    assert not Ranks.of_environment().is_first


@pytest.mark.parametrize(
    ("gpus", "on_host", "wanted"),
    [(0, 2, "gloo"), (2, 2, "cpu:gloo,cuda:nccl"), (4, 2, "cpu:gloo,cuda:nccl"), (1, 2, "gloo")],
)
def test_gpus_exchange_by_nccl_where_each_process_has_one(monkeypatch, gpus, on_host, wanted):
    joined = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, timeout: joined.append(backend))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(on_host))
    Ranks(0, 8).join()  # on several hosts
    assert joined == [wanted]
