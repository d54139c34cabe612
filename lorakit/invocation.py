"""How this program was started, so that a command that is printed works when it is pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

_COMMAND = "lorakit"
_TASK = "--task"
# Those whose work several processes share; each of them would do all of another.
SHARED_TASKS = frozenset({"train", "evaluate", "plan"})


def program(task: str = "train") -> list[str]:
    """Return the words that start this program for a task, with the interpreter and the launcher that run it now.

    The launcher is left out where the task is one for a single process.
    """
    script = Path(sys.argv[0])
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if processes > 1 and task in SHARED_TASKS:
        place = [_shortest(script)] if script.name == "main.py" else ["-m", _COMMAND]
        return [_interpreter(), "-m", "torch.distributed.run", f"--nproc_per_node={processes}", *place]
    if script.stem == _COMMAND:
        found = shutil.which(_COMMAND)
        is_found = found is not None and os.path.abspath(found) == os.path.abspath(script)
        return [_COMMAND if is_found else _shortest(script)]
    if script.name == "main.py":
        return [_interpreter(), _shortest(script)]
    return [_interpreter(), "-m", _COMMAND]


def command(task: str, *words: str) -> str:
    """Return a command line for a task, to be pasted."""
    return shlex.join([*program(task), _TASK, task, *words])


def this_command(task: str, more: Sequence[str] = ()) -> str:
    """Return the command line of this process for another task, or for the same with further words.

    Args:
        task: Which.
        more: Further words; those that are there already are not doubled.
    """
    given = [_TASK, *sys.argv[1:]] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else sys.argv[1:]
    if _TASK in given:
        place = given.index(_TASK) + 1
        given = [*given[:place], task, *given[place + 1 :]]
    elif not any(word.startswith(f"{_TASK}=") for word in given):
        given = [_TASK, task]
    else:
        given = [f"{_TASK}={task}" if word.startswith(f"{_TASK}=") else word for word in given]
    added = [] if set(more) <= set(given) else more
    return shlex.join([*program(task), *given, *added])


def installing(extra: str) -> str:
    """Return the command that installs what an extra of this package needs, for the Python that runs."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        return shlex.join([_interpreter(), "-m", "pip", "install", f"{_COMMAND}[{extra}]"])
    place = "." if root == Path.cwd() else str(root)
    return shlex.join([_interpreter(), "-m", "pip", "install", "-e", f"{place}[{extra}]"])


def _interpreter() -> str:
    """Return the shortest word for this Python: ``python`` where that is what a shell would find."""
    own = os.path.abspath(sys.executable)
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found is not None and os.path.abspath(found) == own:
            return name
    return _shortest(Path(sys.executable))


def _shortest(path: Path) -> str:
    """Return a path as seen from here where it lies below, else whole. Links stay: they make a virtual environment."""
    whole = Path(os.path.abspath(path))
    try:
        return str(whole.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(whole)
