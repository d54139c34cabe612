"""The command ``lorakit``, ``python -m lorakit`` and main.py: all of them begin here.

Older Pythons than lorakit needs must be able to read this file, to be told so.
"""

from lorakit.interrupts import INTERRUPTED, leave_at_once

if __name__ == "__main__":
    leave_at_once()

import os
import sys

_OLDEST = (3, 11)


def run() -> int:
    """Run the task that the command line names; an interrupt ends it quietly at any moment, that of importing too."""
    leave_at_once()
    try:
        code = _run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # whoever holds Ctrl-C down would meet the interpreter that is taking itself apart
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _run() -> int:
    if sys.version_info < _OLDEST:
        return _say(
            "this Python is %d.%d; lorakit needs 3.11 or newer" % sys.version_info[:2],  # noqa: UP031
            _other_python() or "install a newer Python, and lorakit into it",
        )
    try:
        from lorakit.cli import main

        return main()
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in ("", "lorakit"):
            raise
        return _say(
            "this Python (" + sys.executable + ") has no package " + name + ", which lorakit needs",
            _other_python() or "install lorakit with its packages: " + sys.executable + " -m pip install " + _package(),
        )


def _say(fault: str, hint: str) -> int:
    try:
        from lorakit.language import error_lines, speak_language

        speak_language("auto")
        lines = error_lines(fault, hint)
    except Exception:  # of a Python that is too old for that
        lines = ["error: " + fault, "hint: " + hint]
    sys.stderr.write("\n".join(lines) + "\n")
    return 2


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _other_python() -> "str | None":
    """Return how to start it by the Python of the environment that set-up has made, if there is one."""
    for place in (("bin", "python"), ("Scripts", "python.exe")):
        python = os.path.join(_root(), ".venv", *place)
        if os.path.isfile(python) and os.path.abspath(python) != os.path.abspath(sys.executable):
            from shlex import quote

            words = [python, os.path.join(_root(), "main.py")] + sys.argv[1:]  # noqa: RUF005
            here = os.getcwd() + os.sep
            words = [word[len(here) :] if word.startswith(here) else word for word in words]
            return "start it with the Python that has them: " + " ".join(map(quote, words))
    return None


def _package() -> str:
    return "-e " + _root() if os.path.isfile(os.path.join(_root(), "pyproject.toml")) else "lorakit"


if __name__ == "__main__":
    raise SystemExit(run())
