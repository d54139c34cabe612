"""How generated examples are tried: some of them in the tests, as many as ten minutes allow in ``make fuzz``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from conftest import ROOT
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

SECONDS = float(os.environ.get("LORAKIT_FUZZ", "0"))  # for which to search; 0 for the examples of a test
IS_SEARCHING = SECONDS > 0
_END = time.monotonic() + SECONDS
_tried = 0


def trying(count: int) -> settings:
    """Return the settings of a property: ``count`` examples, always the same; or others without end."""
    return settings(
        derandomize=not IS_SEARCHING,
        database=DirectoryBasedExampleDatabase(ROOT / "tests" / "seeds") if IS_SEARCHING else None,
        max_examples=1_000_000_000 if IS_SEARCHING else count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=IS_SEARCHING,
    )


def counted(call: Callable[..., Any], *given: Any) -> Any:
    """Call something on one example, and count it; a search ends here when its time is over, as hypothesis has none."""
    global _tried  # noqa: PLW0603 - of this process, to be said at its end
    if IS_SEARCHING and time.monotonic() > _END:
        os.write(2, f"{_tried} inputs were tried, and nothing was found\n".encode())
        os._exit(0)
    _tried += 1
    return call(*given)
