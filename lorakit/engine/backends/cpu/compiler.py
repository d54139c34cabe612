"""The C++ compiler of this machine. What is called so may be anything: it is asked, and called, within limits."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lorakit.engine.backends.cpu.levels import NoKernelsError

LONGEST_SECONDS = 120  # of one library
_COMPILERS = ("g++", "clang++", "c++")
_TO_ANSWER_SECONDS = 15  # on a busy machine; a tenth of a second elsewhere
_MOST_BYTES = 1_000_000  # that it may say
_TRIED = b"int one() { return 1; }\n"


class CompilerError(Exception):
    """A compiler has failed; says how."""


@dataclass(frozen=True)
class Compiler:
    """A compiler that compiles.

    Attributes:
        command: What it is called by.
        version: What it says of itself.
    """

    command: tuple[str, ...]
    version: str


def find_compiler() -> Compiler:
    """Return the compiler that ``CXX`` names, as everywhere, else the first there is.

    Raises:
        NoKernelsError: There is none, or it is none: it does not answer, or cannot compile a line.
    """
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise NoKernelsError(f"CXX cannot be read ({error})") from error
    if not (chosen and shutil.which(chosen[0])):
        chosen = [path for name in _COMPILERS if (path := shutil.which(name))][:1]
    if not chosen:
        raise NoKernelsError("there is no C++ compiler")
    found = _asked(tuple(chosen))
    if isinstance(found, NoKernelsError):
        raise found
    return found


@cache  # one that does not answer is waited for once
def _asked(command: tuple[str, ...]) -> Compiler | NoKernelsError:
    try:
        version = output_of([*command, "--version"], _TO_ANSWER_SECONDS)
        with tempfile.TemporaryDirectory(prefix="lorakit-compiler-") as folder:
            source, library = Path(folder) / "one.cpp", Path(folder) / "one.so"
            source.write_bytes(_TRIED)
            output_of([*command, "-shared", "-fPIC", str(source), "-o", str(library)], _TO_ANSWER_SECONDS)
            if not library.is_file():
                raise CompilerError("it leaves nothing")
    except (OSError, ValueError, CompilerError) as error:
        return NoKernelsError(f"the C++ compiler failed ({error})")
    return Compiler(command, version)


def output_of(command: Sequence[str], most_seconds: float) -> str:
    """Call a program, and return what it says; it is gone afterwards, with all that it has started.

    Raises:
        OSError: It cannot be started.
        CompilerError: It ends with a fault, takes longer, or says more than a compiler would.
    """
    end = time.monotonic() + most_seconds
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that one signal reaches what a script has started, too
    ) as process:
        try:
            said = _said(process, end).decode("utf-8", "replace")
            code = process.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise CompilerError(f"it has not come to its end in {most_seconds:.0f} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if code != 0:
        raise CompilerError((said.strip().splitlines() or [f"it ended with code {code}"])[-1])
    return said


def _said(process: subprocess.Popen[bytes], end: float) -> bytes:
    """Read what a program says, until it has nothing more to say."""
    assert process.stdout is not None
    said = b""
    while True:
        left = end - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            raise subprocess.TimeoutExpired(process.args, left)
        piece = os.read(process.stdout.fileno(), _MOST_BYTES)
        if not piece:
            return said
        said += piece
        if len(said) > _MOST_BYTES:
            raise CompilerError("it says more than any compiler does")
