"""What this machine's processor is and can do, as its system tells it."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

_LINUX_FILE = Path("/proc/cpuinfo")
_LINUX_FEATURES = ("flags", "Features")
_MAC_SETTINGS = ("machdep.cpu.features", "machdep.cpu.leaf7_features", "machdep.cpu.extfeatures", "hw.optional.arm")
# Where macOS has other names than Linux.
_MAC_NAMES = {"avx1_0": "avx", "lzcnt": "abm", "feat_bf16": "bf16", "feat_i8mm": "i8mm", "feat_dotprod": "asimddp"}


def features() -> frozenset[str]:
    """Return the names of the processor's instruction sets, as Linux calls them; none where they are not told."""
    if platform.system() == "Darwin":
        return frozenset(_mac_features())
    lines = re.findall(rf"^(?:{'|'.join(_LINUX_FEATURES)})\s*:(.*)$", _linux_text(), re.MULTILINE)
    return frozenset(lines[0].split()) if lines else frozenset()


def vendor() -> str:
    """Return the maker's name, such as ``GenuineIntel``; none where it is not told."""
    found = re.search(r"^vendor_id\s*:\s*(\S+)", _linux_text(), re.MULTILINE)
    return found[1] if found else ""


def identity() -> str:
    """Tell kinds of processors apart: a home folder may be shared by machines of several."""
    model = re.search(r"^model name.*$", _linux_text(), re.MULTILINE)
    return "\n".join((platform.machine(), model[0] if model else platform.processor(), *sorted(features())))


def _linux_text() -> str:
    try:
        return _LINUX_FILE.read_text(encoding="utf-8")
    except OSError:
        return ""


def _mac_features() -> list[str]:
    """Read lines such as ``machdep.cpu.features: FPU AVX1.0`` and ``hw.optional.arm.FEAT_BF16: 1``."""
    listed = subprocess.run(["/usr/sbin/sysctl", *_MAC_SETTINGS], capture_output=True, text=True, check=False).stdout
    names: list[str] = ["asimd"] if platform.machine() == "arm64" else []
    for key, _, value in (line.partition(":") for line in listed.splitlines()):
        if key.startswith("machdep"):
            names += value.split()
        elif value.strip() == "1":
            names.append(key.rpartition(".")[2])
    names = [name.lower().replace(".", "_") for name in names]
    return [_MAC_NAMES.get(name, name) for name in names]
