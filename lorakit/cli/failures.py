"""A fault of lorakit itself: a short report in the terminal, everything else in a file."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from lorakit import __version__
from lorakit.errors import RunError
from lorakit.language import language, translated
from lorakit.outgoing import for_a_screen, open_new, without_secrets

LOG_FILE = "lorakit-error.log"
INTERNAL_ERROR = 1
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "pydantic", "numpy", "pyarrow")
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")  # Python's and torch's, by name: torch may not be there
_WORDS_OF_TORCH = ("can't allocate memory", "bad_alloc", "could not create a memory object")
_MORE_ROOM = (
    "lower max_length or max_tokens_per_microbatch, set trainer_args: {activation_checkpointing: true}, "
    "or take a smaller model"
)
_MOST_SHOWN = 300  # characters of the error's own words


def report_internal_error(error: Exception, argv: list[str], output_dir: str | None) -> int:
    """Say what happened in a few lines, and leave the rest in a log.

    Args:
        error: What was not expected.
        argv: The arguments after the program's name.
        output_dir: Of the run, which gets the log where it exists; None where it is not known.

    Returns:
        The exit code.
    """
    fault = f"internal error: {type(error).__name__}: {_shown(error)} ({_place_of(error)})\n"
    sys.stderr.write(fault if language() == "en" else f"{translated(fault)}({fault.strip()})\n")
    log = _write_log("".join(_log_of(error, argv)), output_dir)
    kept = f"the full log is in {log}; please report it with that file" if log else "run it with LORAKIT_DEBUG=1"
    sys.stderr.write(translated(f"hint: this is a fault of lorakit; {kept}\n"))
    if os.environ.get("LORAKIT_DEBUG") == "1":
        traceback.print_exception(error)
    return INTERNAL_ERROR


def fault_of_surroundings(error: BaseException) -> RunError | None:
    """Return the error that a user needs where memory, disk or a library in Rust has given up; else None."""
    text = _shown(error)
    of_the_system = error.errno if isinstance(error, OSError) else None
    if (
        type(error).__name__ in _OUT_OF_MEMORY
        or of_the_system == errno.ENOMEM
        or any(words in text for words in _WORDS_OF_TORCH)
    ):
        return RunError(f"out of memory ({text})", _MORE_ROOM)
    # Whatever a system can say of a file, it says of some: what stands behind a name is the user's. Of a connection it
    # says it of the other processes of a task.
    if isinstance(error, OSError) and of_the_system is not None and not isinstance(error, ConnectionError):
        place = error.filename if isinstance(error.filename, str) else "standard input or output"
        return RunError(
            f"{place}: {error.strerror}", "look at that file or folder, its permissions, and the room on the disk"
        )
    if type(error).__name__ in ("PanicException", "Exception"):  # of Rust, in tokenizers and safetensors
        return RunError(
            f"the library that reads a tokenizer or weights has given up ({text})",
            "fetch model and adapter again; with files that came whole, report it",
        )
    return None


def _shown(error: BaseException) -> str:
    return for_a_screen(" ".join(str(error).split()))[:_MOST_SHOWN]


def _place_of(error: Exception) -> str:
    """Return the innermost line of lorakit that led to the error: ``lorakit/train/trainer.py line 123``."""
    package = Path(__file__).parents[1]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    if not own:
        return "outside lorakit"
    return f"{package.name}/{Path(own[-1].filename).relative_to(package).as_posix()} line {own[-1].lineno}"


def _log_of(error: Exception, argv: list[str]) -> Iterator[str]:
    yield f"lorakit {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    yield ", ".join(_versions()) + "\n"
    yield f"command line: {without_secrets(shlex.join(argv))}\n\n"
    yield without_secrets("".join(traceback.format_exception(error)))


def _versions() -> Iterator[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"{name} is not installed"


def _write_log(text: str, output_dir: str | None) -> Path | None:
    """Write the log into the run's folder, or where that is not there, into the temporary one."""
    for folder in (output_dir, tempfile.gettempdir()):
        if folder is None or not os.path.isdir(folder):
            continue
        file = Path(folder) / LOG_FILE
        try:
            with open_new(file, is_private=True) as log:
                log.write(text)
        except OSError:
            continue
        return file
    return None
