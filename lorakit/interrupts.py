"""Ctrl-C before a task has begun, when there is nothing to save: the program is gone at once.

Importing PyTorch takes seconds, and Python's own KeyboardInterrupt may come up where nobody hands it on: in the C++ of
a package, or in the middle of an import, which is tried again another way. Older Pythons must be able to read this.
"""

# Built in: what surrounds it in signal.py is milliseconds more, in which Ctrl-C would still be Python's own.
import _signal as signal  # type: ignore[import-not-found]
import os

INTERRUPTED = 130  # the shell's own convention for a program ended by Ctrl-C


def leave_at_once() -> None:
    """End this process by the next interrupt; whoever has it ignored (``&``) is heeded."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


def leave_in_order() -> None:
    """Have an interrupt raise KeyboardInterrupt again, where `leave_at_once` has taken it."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: object) -> None:
    os.write(2, b"\ninterrupted\n")
    os._exit(INTERRUPTED)
