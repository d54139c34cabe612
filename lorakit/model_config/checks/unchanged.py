"""Whether the files of a model or an adapter are still those that were found: a task reads them several times over.

Libraries read settings, tokenizer and weights one after the other, and some of them twice. Where something else writes
there meanwhile, a task would go on with half of each state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorakit.model_config.checks.folder import WEIGHTS, files_in

State = tuple[int, int, int, int]


@dataclass(frozen=True)
class FolderState:
    """The files of a folder as they were found.

    Attributes:
        folder: That holds them.
        files: By name: device and inode, size in bytes, and when it was last written, in nanoseconds.
    """

    folder: Path
    files: Mapping[str, State]

    @classmethod
    def of(cls, folder: Path) -> FolderState:
        """Look at what lies in a folder now; where it cannot be read, nothing does."""
        return cls(folder, {file.name: state for file in files_in(folder) if (state := _state_of(file))})

    def changed(self) -> str | None:
        """Return the name of a file that has come, gone, or been written since; None where all is as it was."""
        now = FolderState.of(self.folder).files
        return next((name for name in sorted({*self.files, *now}) if self.files.get(name) != now.get(name)), None)

    def rewritten(self) -> str | None:
        """Return the name of a file of weights that was written where it stands: who has it mapped can see that.

        One that another file has taken the place of, by renaming, is mapped as it was.
        """
        now = FolderState.of(self.folder).files
        weights = (name for name in sorted({*self.files} & {*now}) if name.endswith(WEIGHTS))
        return next((n for n in weights if self.files[n][:2] == now[n][:2] and self.files[n] != now[n]), None)


def _state_of(file: Path) -> State | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
