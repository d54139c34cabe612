"""Pictures read before they are wanted."""

import threading
from dataclasses import dataclass, field

import pytest
import torch

from lorakit.engine.images.read_ahead import ReadAhead


@dataclass(frozen=True)
class Fake:
    name: str
    patches: int = 10
    read: object = field(default=None, compare=False)


def fake(name, reads, error=None, patches=10):
    def read():
        reads.append((name, threading.current_thread().name))
        if error:
            raise error
        return torch.ones(patches, 3)

    return Fake(name, patches, read)


def threads_of(reads):
    return {name: thread.startswith("lorakit-pictures") for name, thread in reads}


def test_announced_pictures_are_read_once_and_in_the_background():
    reads, ahead = [], ReadAhead()
    pictures = [fake(name, reads) for name in "abc"]
    ahead.announce(pictures)
    ahead.announce(pictures)
    assert all(ahead.read(picture).shape == (10, 3) for picture in pictures)
    assert threads_of(reads) == {"a": True, "b": True, "c": True}
    assert len(reads) == 3


def test_others_are_read_on_demand():
    reads = []
    ReadAhead().read(fake("a", reads))
    assert threads_of(reads) == {"a": False}


def test_what_waits_is_bounded_and_room_is_given_back():
    reads, ahead = [], ReadAhead(most_patches=25)
    pictures = [fake(name, reads) for name in "abc"]
    ahead.announce(pictures)
    for picture in pictures:
        ahead.read(picture)
    assert threads_of(reads) == {"a": True, "b": True, "c": False}
    reads.clear()
    ahead.announce(pictures[2:])
    ahead.read(pictures[2])
    assert threads_of(reads) == {"c": True}


def test_an_error_comes_to_the_one_who_wants_the_picture():
    ahead = ReadAhead()
    broken = fake("a", [], ValueError("changed"))
    ahead.announce([broken])
    with pytest.raises(ValueError, match="changed"):
        ahead.read(broken)
