"""What makes two runs the same: kept as run.json, and what a resumed run is held to."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lorakit.incoming import leads_out, read_whole
from lorakit.runs.names import IDENTITY_FILE
from lorakit.runs.storage import write_json


@dataclass(frozen=True)
class RunIdentity:
    """All that a run's numbers depend on.

    Attributes:
        settings: Those that change the result.
        rows: SHA-256 of the encoded training rows, in order.
        base_fingerprint: Of the base model's weights.
        template_hash: Of the chat template.
        dtype: The number format that was set or chosen.
        processes: How many share a step.
        kernels: Whether lorakit's own C++ computed what lies between the matrix products.
        template_date: That the chat template wrote; None where it writes none.
        validation_rows: As ``rows``, where the validation loss decides which adapter is kept; else None.
        replayed: SHA-256 of the base's answers that are trained with the rows; None where there are none.
        mark: Of this run and no other; its checkpoints carry it.
    """

    settings: dict[str, Any]
    rows: str
    base_fingerprint: str
    template_hash: str
    dtype: str
    processes: int
    kernels: bool = False  # those of earlier versions did without
    template_date: str | None = None
    validation_rows: str | None = None
    replayed: str | None = None
    mark: str = ""

    def differences(self, earlier: RunIdentity) -> Iterator[str]:
        """Say in what this run differs from an earlier one."""
        names = [*self.settings, *(name for name in earlier.settings if name not in self.settings)]
        for name in names:
            before, now = earlier.settings.get(name), self.settings.get(name)
            if before != now:
                yield f"{name} was {before} and is {now}"
        words = {
            "rows": "the training rows have changed",
            "validation_rows": "the validation rows, which decide what is kept, have changed",
            "replayed": "the replayed answers of the base have changed",
            "base_fingerprint": "the weights of the base model have changed",
            "template_hash": "the chat template has changed",
            "dtype": f"the number format was {earlier.dtype} and is {self.dtype}",
            "kernels": "cpu_kernels computed it, and cannot here",
            "template_date": f"the chat template wrote {earlier.template_date} and writes {self.template_date}",
            "processes": f"{earlier.processes} processes shared a step, now {self.processes}",
        }
        yield from (text for name, text in words.items() if getattr(self, name) != getattr(earlier, name))

    def save(self, folder: Path) -> None:
        """Write ``run.json``."""
        write_json(folder / IDENTITY_FILE, asdict(self))


def new_mark() -> str:
    """Return a mark that no other run has."""
    return uuid.uuid4().hex


def read_identity(folder: Path) -> RunIdentity | None:
    """Read what a run left; None where it left nothing that can be read."""
    if leads_out(folder / IDENTITY_FILE):
        return None
    try:
        return TypeAdapter(RunIdentity).validate_json(read_whole(folder / IDENTITY_FILE))
    except (OSError, ValueError):  # ValidationError is a ValueError
        return None
