"""Where lorakit keeps what it fetches or builds once."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return lorakit's cache folder: ``LORAKIT_CACHE``, else the platform's usual place."""
    if chosen := os.environ.get("LORAKIT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "lorakit"
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "lorakit"
