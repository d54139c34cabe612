"""The command line: argv and YAML become a `Config`; ONE task is imported and run."""

from __future__ import annotations

import codecs
import gc
import importlib
import io
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from lorakit.cli.arguments import parse_arguments
from lorakit.cli.company import check_company, number_of_processes
from lorakit.cli.failures import fault_of_surroundings, report_internal_error
from lorakit.errors import LorakitError, RunError
from lorakit.interrupts import INTERRUPTED, leave_in_order
from lorakit.invocation import SHARED_TASKS
from lorakit.language import error_lines, language_of_arguments, speak_language, translated
from lorakit.libraries import settle_libraries, start_libraries
from lorakit.outgoing import for_a_screen, let_go

if TYPE_CHECKING:
    from lorakit.config import Config

# Imported only when chosen: torch takes seconds, --help should not.
_TASK_MODULES = {
    "train": "lorakit.train.training",
    "evaluate": "lorakit.evaluate",
    "inference": "lorakit.inference",
    "plan": "lorakit.train.planning.preflight",
    "advise": "lorakit.train.planning.advising",
    "merge": "lorakit.export.merging",
    "export": "lorakit.export.exporting",
    "push": "lorakit.export.hub.push",
    "preview": "lorakit.preview",
}

# Those that have no use for settings; they are told the arguments.
_BESIDE_TASKS = {"init": "lorakit.cli.starting", "doctor": "lorakit.cli.doctor"}

_DOING = {
    "train": "at work",
    "evaluate": "evaluating",
    "plan": "planning",
    "advise": "trying learning rates",
    "merge": "merging",
    "export": "exporting",
    "push": "looking at the files",
    "preview": "reading",
}
_ERRORS = {"stdin": "surrogateescape", "stdout": "lorakit", "stderr": "replace"}  # what is no text stays bytes, or is ?
_LONGEST_LINE = 900  # characters of a message
_LOST = "another process of this task has ended, or no longer answers"
_GO_ON = (
    "its own message says why, where it had one; a training goes on from its last checkpoint with --set resume=true"
)


def main(argv: list[str] | None = None) -> int:
    """Run one task.

    Args:
        argv: The arguments after the program's name; None takes the process's own.

    Returns:
        The exit code: 0 done, 1 a fault of lorakit itself, 2 a fault its message says how to mend, 130 interrupted.
    """
    _open_streams()
    settle_libraries()
    given = sys.argv[1:] if argv is None else argv
    output_dir = None
    speak_language(language_of_arguments(given))
    try:
        arguments = parse_arguments(given)
        if arguments.task in _BESIDE_TASKS:
            leave_in_order()
            return int(importlib.import_module(_BESIDE_TASKS[arguments.task]).run(arguments))
        from lorakit.config import load_config  # pydantic; not needed for --help

        config = load_config(arguments.config_file, arguments.flags, arguments.assignments)
        output_dir = config.output_dir
        check_company(arguments.task, SHARED_TASKS)
        from lorakit import console  # rich; not needed for faults in settings

        console.speak(is_verbose=config.verbose)
        speak_language(config.language)
        with console.progress(None, "starting"):
            run = _run_of(arguments.task)
        if arguments.task == "advise":  # which leaves a copy of that file, with its comments
            run = partial(run, config_file=arguments.config_file)
        leave_in_order()
        code = _with_progress(run, arguments.task)(config)
        with console.naming_output():
            sys.stdout.flush()  # what cannot be written should be said now, not when the interpreter ends
        return code
    except BaseException as error:
        return _outcome_of(error, given, output_dir)


def _with_progress(run: Callable[..., int], task: str) -> Callable[..., int]:
    """Show that a task is at work, whatever it does; a session shows it where nobody types."""
    from lorakit import console

    def shown(config: Config) -> int:
        with console.progress(None, _DOING[task]):
            return run(config)

    return shown if task in _DOING else run


def _open_streams() -> None:
    """Make the standard streams such that nothing that is printed can end a run."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as the process
        elif isinstance(stream, io.TextIOWrapper):  # a terminal without Chinese shows "?"
            codecs.register_error("lorakit", _Replacing())
            stream.reconfigure(errors=_ERRORS[name])


class _Replacing:
    """Puts a question mark for what an output's encoding does not have, and says so the first time."""

    def __init__(self) -> None:
        self._has_said = False

    def __call__(self, error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        if not self._has_said:
            self._has_said = True
            sys.stderr.write(  # in English, as the output may lack the characters of another language
                f"warning: the output's encoding, {error.encoding}, lacks some characters, which are shown as ?\n"
                "hint: set PYTHONIOENCODING=utf-8\n"
            )
        return "?" * (error.end - error.start), error.end


def _outcome_of(error: BaseException, given: list[str], output_dir: str | None) -> int:
    if isinstance(error, LorakitError):
        return _report(error)
    if isinstance(error, KeyboardInterrupt):
        _say(f"{translated('interrupted')}\n")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader of our output has left: `... | head`
        let_go(sys.stdout)
        sys.stderr.close()
        return 0
    if isinstance(error, ModuleNotFoundError) and not (error.name or "lorakit").startswith("lorakit"):
        raise error  # a package is not there: `lorakit.__main__` says how to start instead
    surroundings = fault_of_surroundings(error)
    if isinstance(error, OSError) and error.filename is None:
        let_go(sys.stdout)
    if surroundings is not None:
        return _report(surroundings)
    if isinstance(error, Exception):
        if _is_lost_process(error):
            return _report(RunError(_LOST, _GO_ON))
        with _telling():
            return report_internal_error(error, given, output_dir)
    raise error


def _run_of(task: str) -> Callable[..., int]:
    """Import a task.

    PyTorch and transformers are 700,000 objects, all of them to stay. To look for garbage among them, again and again
    while they come in, would take a sixth of the time, and a quarter of a second whenever memory is cleared later on.
    """
    gc.disable()
    try:
        start_libraries()
        return importlib.import_module(_TASK_MODULES[task]).run  # type: ignore[no-any-return]
    finally:
        gc.enable()
        gc.freeze()


def _is_lost_process(error: Exception) -> bool:
    if not _has_company():
        return False
    from lorakit.engine import is_lost_process

    return is_lost_process(error)


def _has_company() -> bool:
    return number_of_processes() > 1


def _telling() -> AbstractContextManager[bool]:
    """Yield whether this process is the one of its task that prints an error."""
    if not _has_company():
        return nullcontext(True)
    from lorakit.engine import telling

    return telling()


def _report(error: LorakitError) -> int:
    with _telling() as is_first:
        if is_first:
            _print_error(error)
    return error.exit_code


def _print_error(error: LorakitError) -> None:
    for line in error_lines(for_a_screen(error.message), for_a_screen(error.hint) if error.hint else None):
        _say(f"{_cut(line)}\n")


def _say(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):  # where nothing can be said, the exit code says it
        let_go(sys.stderr)


def _cut(line: str) -> str:
    """Leave out the middle of a line that nobody would read: names and values come from anywhere."""
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 3 :]}"
