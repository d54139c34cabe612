"""Further processes that encode chunks of rows, so that a large file is read with all cores that this one may use.

They are copies of this process (fork): they know the shapes and words that it has met, and nothing is loaded again.
Each has one chunk at a time, and what comes back is entered in the order of the chunks, so that the columns are those
that one process makes. One that ends is done without: its chunk is encoded here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

from lorakit.data_processing.example import Rejected
from lorakit.data_processing.raw import RawRow
from lorakit.data_processing.tokens.columns import Writer
from lorakit.data_processing.tokens.written_rows import RowEncoder, WrittenRows

_MOST = 16  # more would wait for the one that reads the file
_LEAST_CORES = 4  # with two, 200,000 rows took a quarter longer than in one process
_LIMITS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
_CONTROL_GROUP = Path("/sys/fs/cgroup")
Chunk = Sequence[RawRow | Rejected]


def cores() -> int:
    """Count the cores that this process may use: its affinity, its control group, and what users set for threads."""
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    counts += [int(os.environ[name]) for name in _LIMITS if os.environ.get(name, "").isdigit()]
    return max(1, min([*counts, *_of_control_group(_CONTROL_GROUP)]))


def _of_control_group(folder: Path) -> list[int]:
    """Read how many cores' time a container may take; nothing where there is no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return [max(1, round(int(quota) / int(period)))]
    except (OSError, ValueError):
        return []


@dataclass
class _Side:
    process: BaseProcess
    pipe: Connection
    chunk: Chunk | None = None  # that it is at


class SideProcesses:
    """Encodes chunks here until it is told to spread them, then elsewhere.

    Args:
        encoder: That has learnt from the first chunks.
    """

    def __init__(self, encoder: RowEncoder) -> None:
        self._encoder = encoder
        self._sides: deque[_Side] = deque()  # whose turn it is first
        self._has_spread = False

    def __enter__(self) -> SideProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for side in self._sides:
            side.pipe.close()
            side.process.terminate()
        for side in self._sides:
            side.process.join()

    @property
    def can_spread(self) -> bool:
        """Whether there are cores for it, on a system where a copy of a process is safe."""
        is_text = self._encoder.encoding.chat_format.images is None
        may_fork = sys.platform == "linux" and not multiprocessing.current_process().daemon
        return not self._has_spread and is_text and may_fork and cores() >= _LEAST_CORES

    def spread(self) -> None:
        """Begin to encode elsewhere."""
        self._has_spread = True
        # The terminal sends Ctrl-C to all of them; this process ends the others.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(min(cores(), _MOST)):
                self._sides.append(self._started())
        except OSError:  # no room for another process: those that there are have to do
            pass
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _started(self) -> _Side:
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        try:
            process = context.Process(target=_serve, args=(self._encoder, there), daemon=True)
            process.start()
        except OSError:
            here.close()
            raise
        finally:
            there.close()
        return _Side(process, here)

    def write(self, chunk: Chunk, written: WrittenRows) -> None:
        """Encode a chunk; what was spread before is entered first."""
        while self._sides:
            side = self._sides[0]
            self._take(side, written)
            try:
                side.pipe.send(chunk)
            except OSError:
                self._give_up(side)
                continue
            side.chunk = chunk
            self._sides.rotate(-1)
            return
        self._encoder.write(chunk, written)

    def finish(self, written: WrittenRows) -> None:
        """Enter all that is still being encoded."""
        for side in list(self._sides):
            self._take(side, written)

    def _take(self, side: _Side, written: WrittenRows) -> None:
        """Enter what became of the chunk that a side is at."""
        if side.chunk is None:
            return
        try:
            found = side.pipe.recv()
        except (OSError, EOFError):
            self._encoder.write(side.chunk, written)
        else:
            written.extend(found)
        side.chunk = None

    def _give_up(self, side: _Side) -> None:
        self._sides.remove(side)
        side.pipe.close()
        side.process.terminate()
        side.process.join()


def _serve(encoder: RowEncoder, pipe: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads were not copied
    while True:
        try:
            chunk = pipe.recv()
        except (OSError, EOFError):
            return
        written = encoder.begin(Writer())
        encoder.write(chunk, written)
        written.ledger.settle()
        pipe.send(written)
