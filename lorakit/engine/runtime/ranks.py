"""The processes that work together on one task, as torchrun and ``accelerate launch`` start them."""

from __future__ import annotations

import datetime
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from lorakit.errors import LorakitError

Item = TypeVar("Item")
_LONGEST_WAIT = datetime.timedelta(days=1)
_STORE_WAIT = datetime.timedelta(seconds=5)
_LONGEST_STAY_SECONDS, _STAY_SECONDS, _POLL_SECONDS = 2, 1, 0.02


@dataclass(frozen=True)
class Ranks:
    """This process among its like; one process is the first of one.

    Attributes:
        index: Of this process, from 0.
        count: Of all processes on all hosts.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of_environment(cls) -> Ranks:
        """Read what the launcher has set."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return every so-manieth item, so that the shares are alike whatever the order."""
        return items[self.index :: self.count]

    def collect(self, items: Iterable[Item]) -> Iterable[Item]:
        """Return the items of all ranks, on every rank; those of a single one as they come."""
        if self.count == 1:
            return items
        self.join()
        gathered: list[list[Item]] = [[] for _ in range(self.count)]
        torch.distributed.all_gather_object(gathered, list(items))
        return [item for of_rank in gathered for item in of_rank]

    def join(self, seconds: float | None = None) -> None:
        """Find the other processes.

        Args:
            seconds: How long they wait for each other at most; None for a day, as one may have much longer answers to
                write than another.
        """
        if self.count > 1 and not torch.distributed.is_initialized():
            wait = _LONGEST_WAIT if seconds is None else datetime.timedelta(seconds=seconds)
            torch.distributed.init_process_group(_backend(self.count), timeout=wait)

    def decided_by_first(self, decide: Callable[[], Item]) -> Item:
        """Let the first rank decide, and return on every rank what it has found.

        Raises:
            LorakitError: On every rank, where the first one has raised it.
        """
        if self.count == 1:
            return decide()
        outcomes: list[Item | LorakitError] = []
        if self.is_first:
            try:
                outcomes = [decide()]
            except LorakitError as error:
                outcomes = [error]
        [outcome] = self.collect(outcomes)
        if isinstance(outcome, LorakitError):
            raise outcome
        return outcome


def _backend(count: int) -> str:
    """Return what carries tensors: NCCL between GPUs, of which each process of this host needs one of its own."""
    on_host = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    has_gpus = torch.distributed.is_nccl_available() and 0 < on_host <= torch.cuda.device_count()
    return "cpu:gloo,cuda:nccl" if has_gpus else "gloo"


def part_ranks() -> None:
    """Let every rank go its own way: from here on none waits for another, nor is ended by another's exit."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


# What the libraries say where another process has gone, or does not answer.
_LOST = re.compile(
    r"connection (closed|reset|refused)|socket (timeout|closed)|timed out|broken pipe|gloo|nccl|peer", re.IGNORECASE
)


def is_lost_process(error: BaseException) -> bool:
    """Tell whether an error means that another process of this task has ended or no longer answers."""
    is_told = isinstance(error, torch.distributed.DistError | RuntimeError) and bool(_LOST.search(str(error)))
    return Ranks.of_environment().count > 1 and is_told


@contextmanager
def telling() -> Iterator[bool]:
    """Yield whether this process is the first of its task that prints an error: those of others are its effect.

    The processes ask the store in which their launcher lets them meet. Where that is gone one of each machine prints.
    Where the store lives in this process, it stays until the others have asked.
    """
    count = Ranks.of_environment().count
    if count == 1:
        yield True
        return
    key = f"lorakit-told-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store = _store()
        is_first = int(store.add(key, 1)) == 1
    except Exception:  # the store's process may be the one that is gone
        with _name_of_task() as is_first:
            yield is_first
            time.sleep(_STAY_SECONDS if is_first else 0)  # for those who notice it a little later
        return
    yield is_first
    if _hosts_store():
        _hang_up()
        _await_others(store, key, count)


@contextmanager
def _name_of_task() -> Iterator[bool]:
    """Yield whether this process alone holds a name of its task, which goes with it: Linux has such; else True."""
    if not sys.platform.startswith("linux"):
        yield True
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as name:
        try:
            name.bind(f"\0lorakit-told-{os.environ.get('MASTER_ADDR')}-{os.environ.get('MASTER_PORT')}")
            is_first = True
        except OSError:
            is_first = False
        yield is_first


def _hang_up() -> None:
    """Close the connections to the other processes, but for those to the store, so that they learn that this one ends.

    gloo would close them with the last reference to its groups, which FSDP's caches keep to the end.
    """
    store_port = int(os.environ["MASTER_PORT"])
    for name in os.listdir("/dev/fd"):
        with suppress(OSError, ValueError), socket.socket(fileno=os.dup(int(name))) as connection:
            is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
            if is_tcp and store_port not in (connection.getsockname()[1], connection.getpeername()[1]):
                connection.shutdown(socket.SHUT_RDWR)


def _await_others(store: Any, key: str, count: int) -> None:
    deadline = time.monotonic() + _LONGEST_STAY_SECONDS
    with suppress(Exception):
        while int(store.add(key, 0)) < count and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _hosts_store() -> bool:
    return Ranks.of_environment().is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _store() -> Any:
    if torch.distributed.is_initialized():
        return torch.distributed.distributed_c10d._get_default_store()
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return torch.distributed.TCPStore(*place, is_master=_hosts_store(), timeout=_STORE_WAIT, wait_for_workers=False)
