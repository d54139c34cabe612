"""The processes that work together on one task, as torchrun and ``accelerate launch`` start them."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from lorakit.errors import LorakitError

Item = TypeVar("Item")
_LONGEST_WAIT = datetime.timedelta(days=1)
_STORE_WAIT = datetime.timedelta(seconds=5)


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
            torch.distributed.init_process_group("gloo", timeout=wait)

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


def is_first_to_tell() -> bool:
    """Tell whether this process is the first of its task that has an error to print: the others have the same one.

    The processes ask the store in which their launcher lets them meet. Where that is not to be had each of them prints.
    """
    if Ranks.of_environment().count == 1:
        return True
    try:
        return int(_store().add(f"lorakit-told-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1)) == 1
    except Exception:  # the store's process may be the one that is gone
        return True


def _store() -> Any:
    if torch.distributed.is_initialized():
        return torch.distributed.distributed_c10d._get_default_store()
    is_leading = Ranks.of_environment().is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return torch.distributed.TCPStore(*place, is_master=is_leading, timeout=_STORE_WAIT, wait_for_workers=False)
