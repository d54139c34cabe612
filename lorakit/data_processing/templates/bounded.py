"""A chat template is a program from a stranger: it is rendered within limits of time and memory."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

from lorakit.errors import ModelError

Result = TypeVar("Result")
MOST_SECONDS = 5.0  # a long conversation takes a hundredth of a second
MOST_BYTES = 1_000_000_000  # more than the process had before
_LARGEST_FACTOR = 1000


class LimitError(ModelError):
    """A chat template asks for too much."""

    def __init__(self, fault: str, place: str = "") -> None:
        self.fault = fault
        where = f"{place}: " if place else ""
        super().__init__(
            f"{where}the chat template {fault}", "use a chat template of the model's maker, or another base model"
        )


def apply_chat_template(tokenizer: Any, conversation: list[dict[str, Any]], **how: Any) -> str:
    """Render a conversation as ``tokenizer.apply_chat_template`` does, within limits.

    Raises:
        LimitError: The template takes too long, too much memory, or does what no limit could stop.
    """
    place = str(tokenizer.name_or_path)
    fault = fault_of_template(str(tokenizer.chat_template))
    if fault is not None:
        raise LimitError(fault, place)
    try:
        return str(within_limits(lambda: tokenizer.apply_chat_template(conversation, tokenize=False, **how)))
    except LimitError as error:
        raise LimitError(error.fault, place) from None


@lru_cache(maxsize=32)
def fault_of_template(template: str) -> str | None:
    """Say what in a template no limit of time would stop, as it is a single operation; None where there is nothing.

    Loops and calls of macros are Python's own, between whose steps time is looked at. A power of numbers is not.
    """
    import jinja2
    from jinja2 import ext, nodes

    class Generation(ext.Extension):
        """The tag of transformers around what a model has written; what stands in it counts as any other."""

        tags = {"generation"}  # noqa: RUF012 - as jinja wants it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = jinja2.Environment(autoescape=True, extensions=[ext.loopcontrols, Generation])
    try:
        tree = environment.parse(template)
    except (jinja2.TemplateError, RecursionError, MemoryError):  # it is none: whoever renders it will say so
        return None
    if next(tree.find_all(nodes.Pow), None) is not None:
        return "computes a power"
    if any(not _is_small(product.left) and not _is_small(product.right) for product in tree.find_all(nodes.Mul)):
        return f"multiplies by more than {_LARGEST_FACTOR}"
    return None


def _is_small(node: Any) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Const) and isinstance(node.value, int) and abs(node.value) <= _LARGEST_FACTOR


def within_limits(call: Callable[[], Result]) -> Result:
    """Call something that may not come to an end, or want more memory than there is.

    Raises:
        LimitError: It took five seconds, or a gigabyte.
    """
    try:
        with _limited_memory(), _limited_time():
            return call()
    except MemoryError:
        raise LimitError(f"takes more than {MOST_BYTES // 10**9} GB of memory") from None


@contextmanager
def _limited_time() -> Iterator[None]:
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return
    caller = ctypes.c_ulong(threading.get_ident())
    raise_in_caller = ctypes.pythonapi.PyThreadState_SetAsyncExc
    timer = threading.Timer(MOST_SECONDS, raise_in_caller, (caller, ctypes.py_object(_TooLongError)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _TooLongError(LimitError):
    def __init__(self) -> None:
        super().__init__(f"takes more than {MOST_SECONDS:g} seconds")


def _stop(number: int, frame: Any) -> None:
    raise _TooLongError


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Lower the limit of this process's addresses for a moment (Linux; other systems have none that holds)."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as pages:
        taken = int(pages.read().split()[0]) * resource.getpagesize()
    least = min(limit for limit in (taken + MOST_BYTES, soft, hard) if limit >= 0)
    resource.setrlimit(resource.RLIMIT_AS, (least, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
