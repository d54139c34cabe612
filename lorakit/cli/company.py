"""What launchers say of the processes that share a task, in the environment: held to sense before anything reads it."""

from __future__ import annotations

import os

from lorakit.errors import RunError, SettingsError

_MOST_PROCESSES = 100_000
_NUMBERS = {"WORLD_SIZE": (1, _MOST_PROCESSES), "RANK": (0, _MOST_PROCESSES - 1), "MASTER_PORT": (1, 65_535)}
_NUMBERS |= {"LOCAL_RANK": (0, _MOST_PROCESSES - 1), "LOCAL_WORLD_SIZE": (1, _MOST_PROCESSES)}
_TOGETHER = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_REMEDY = "torchrun and accelerate launch set it; where none of them has started this, unset it"
_MOST_DIGITS = 9


def check_company(task: str, shared_tasks: frozenset[str]) -> None:
    """Refuse what no launcher would have set, and more processes than a task can use.

    Raises:
        SettingsError: A variable holds no number, or others are missing beside it.
        RunError: The task is for one process.
    """
    for name, (least, most) in _NUMBERS.items():
        if name in os.environ and not least <= _number(os.environ[name]) <= most:
            raise SettingsError(f"{name}={os.environ[name][:40]!r}: is no number from {least} to {most}", _REMEDY)
    count, index = number_of_processes(), _number(os.environ.get("RANK", "0"))
    if count > 1 and task not in shared_tasks:
        raise RunError(
            f"{task}: is done by one process, and {count} were started (WORLD_SIZE)",
            "start it without torchrun or accelerate launch",
        )
    missing = [name for name in _TOGETHER if not os.environ.get(name)] if count > 1 else []
    if missing:
        raise SettingsError(f"WORLD_SIZE={count}: {', '.join(missing)} must be set as well", _REMEDY)
    if index >= count:
        raise SettingsError(f"RANK={index}: there are {count} processes (WORLD_SIZE), the first of them 0", _REMEDY)


def number_of_processes() -> int:
    """Return how many processes share the task; 1 where that cannot be read."""
    return max(_number(os.environ.get("WORLD_SIZE", "1")), 1)


def _number(text: str) -> int:
    """Return a number; -1 where a text is none."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else -1
