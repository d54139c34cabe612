"""The C++ compiled for this machine's processor: once, in two seconds a file and format, and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from lorakit.runs import cache_folder

_FOLDER = Path(__file__).parent
# The rules of IEEE 754 that stand in the way of vector instructions and that nothing here relies on.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
# Intel's processors multiply pairs of bfloat16 numbers (vdpbf16ps) at half the speed of as many floats, AMD's at twice.
_FLAGS_OF_VENDORS = {"GenuineIntel": ("-DONE_BY_ONE",)}
_FORMATS = {torch.float32: "float", torch.bfloat16: "BFloat16"}
_HALF_INSTRUCTIONS = "avx512_fp16"
_COMPILERS = ("g++", "c++")
_PROCESSOR_FILE = Path("/proc/cpuinfo")
_LONGEST_SECONDS = 60
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NoKernelsError(Exception):
    """Nothing can be compiled here; says why. Caught within the engine."""


def built_kernels(dtype: torch.dtype) -> Path:
    """Return kernels.cpp as a shared library for a number format, compiled now if it is not in the cache.

    Raises:
        NoKernelsError: There is nothing for this format, there is no GNU compiler, or PyTorch computes with other
            threads than its programs do, or the compiler fails.
    """
    if dtype not in _FORMATS:
        raise NoKernelsError(f"not for {dtype}".replace("torch.", ""))
    return _built(_FOLDER / "kernels.cpp", f"-DFORMAT={_FORMATS[dtype]}")


def built_half_products() -> Path:
    """Return half_products.cpp as a shared library, compiled now if it is not in the cache.

    Raises:
        NoKernelsError: The processor has no instructions for float16, or as above.
    """
    _openmp_of_torch()  # says whether this is Linux
    if _HALF_INSTRUCTIONS not in _processor().split():
        raise NoKernelsError("the processor cannot multiply float16")
    return _built(_FOLDER / "half_products.cpp")


def built_decoding() -> Path:
    """Return decoding.cpp as a shared library, compiled now if it is not in the cache.

    Raises:
        NoKernelsError: As above.
    """
    return _built(_FOLDER / "decoding.cpp")


def _built(source: Path, *flags: str) -> Path:
    threads = _openmp_of_torch()
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise NoKernelsError("there is no C++ compiler")
    try:
        version = _run([compiler, "--version"])
        if "Free Software Foundation" not in version:
            raise NoKernelsError("the C++ compiler is not GNU's")
        command = [compiler, *_FLAGS, *_flags_of_vendor(), *flags]
        library = _place(source, version, command[1:])
        if not library.is_file():
            _compile([*command, str(source)], threads, library)
        _check_is_own(library)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoKernelsError(f"the C++ compiler failed ({_last_line(error)})") from error
    return library


def _openmp_of_torch() -> Path:
    """Return GNU's OpenMP as PyTorch has loaded it: with a second one, threads would wait for each other's cores."""
    if platform.system() != "Linux":
        raise NoKernelsError("only on Linux")
    torch.get_num_threads()  # loads it
    loaded = re.search(r"/\S*libgomp\S*", Path("/proc/self/maps").read_text(encoding="utf-8"))
    if loaded is None:
        raise NoKernelsError("PyTorch has other threads than GNU's")
    return Path(loaded.group())


def _place(source: Path, version: str, flags: Sequence[str]) -> Path:
    """Return the library's path, which tells source, flags, compiler and processor apart."""
    digest = hashlib.sha256(source.read_bytes())
    for part in (*flags, version, _processor()):
        digest.update(part.encode())
    return cache_folder() / "kernels" / f"{digest.hexdigest()[:24]}.so"


def _flags_of_vendor() -> tuple[str, ...]:
    vendor = re.search(r"^vendor_id\s*:\s*(\S+)", _PROCESSOR_FILE.read_text(encoding="utf-8"), re.MULTILINE)
    return _FLAGS_OF_VENDORS.get(vendor[1], ()) if vendor else ()


def _processor() -> str:
    """Name the processor's instructions: a home folder may be shared by machines of different kinds."""
    text = _PROCESSOR_FILE.read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features", "model name")))
    return platform.machine() + "\n".join(sorted(set(lines)))


def _compile(command: list[str], threads: Path, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as folder:
        built = Path(folder) / library.name
        _run([*command, "-o", str(built), "-Wl,--as-needed", str(threads)])
        built.chmod(0o700)  # whatever the umask
        built.replace(library)  # several processes may do this at once


def _check_is_own(library: Path) -> None:
    """Refuse what somebody else could have written: to load a library is to run it."""
    found = library.stat()
    if found.st_uid != os.getuid() or found.st_mode & _OTHERS_MAY_WRITE:
        raise NoKernelsError(f"others may write {library}")


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LONGEST_SECONDS).stdout


def _last_line(error: Exception) -> str:
    lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
