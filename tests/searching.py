"""How generated examples are tried: some of them in the tests, as many as ten minutes allow in ``make fuzz``."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

from conftest import ROOT
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

IS_SEARCHING = os.environ.get("LORAKIT_FUZZ") == "1"
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
    """Call something on one example, and count it."""
    global _tried  # noqa: PLW0603 - of this process, to be said at its end
    _tried += 1
    return call(*given)


if IS_SEARCHING:
    atexit.register(lambda: sys.stderr.write(f"{_tried} inputs were tried\n"))
