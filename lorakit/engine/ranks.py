"""The processes that work together on one task, as torchrun and ``accelerate launch`` start them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from lorakit.errors import LorakitError

Item = TypeVar("Item")
# One rank may have much longer answers to write than another.
_LONGEST_WAIT = datetime.timedelta(days=1)


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
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
        gathered: list[list[Item]] = [[] for _ in range(self.count)]
        torch.distributed.all_gather_object(gathered, list(items))
        return [item for of_rank in gathered for item in of_rank]

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
