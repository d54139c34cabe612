"""The C++ compiled for this machine's processor: once, in a few seconds a library, and kept in the cache.

A library's name ends in the hash of what is in it: one that a crash or a full disk has damaged is seen and built anew,
and never run.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.engine.backends.cpu.compiler import LONGEST_SECONDS, CompilerError, find_compiler, output_of
from lorakit.engine.backends.cpu.levels import (
    VARIABLE,
    Level,
    NoKernelsError,
    levels_here,
    levels_of,
    machine,
    wished_level,
)
from lorakit.engine.runtime import processor

ROOM = Path(__file__).resolve().parent
FOLDER = ROOM / "native"  # of the C++
_BUILT_IN = ROOM / "built_in"  # libraries that a wheel brings
# The rules of IEEE 754 that stand in the way of vector instructions and that nothing here relies on. Threads are called
# by threads.h, so that of OpenMP only the word for vectors is needed, which every compiler has.
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-shared", "-fPIC")
# Intel's processors multiply pairs of bfloat16 numbers (vdpbf16ps) at half the speed of as many floats, AMD's at twice.
_FLAGS_OF_VENDORS = {"GenuineIntel": ("-DONE_BY_ONE",)}
_UNFINISHED = "building-"
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DIGITS = 24  # of a hash


@dataclass(frozen=True)
class KernelSource:
    """What becomes one library.

    Attributes:
        name: Of the library.
        file: The C++, in this folder.
        defines: Macros, such as ``FORMAT=float``.
        needs: What a processor must have for it to be of use beyond tests, in Linux's names.
    """

    name: str
    file: str
    defines: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()

    def flags(self, level: Level) -> tuple[str, ...]:
        """Return what a compiler is told, but for the places of files."""
        return (*FLAGS, *level.flags, *(f"-D{one}" for one in self.defines))

    def digest(self, *parts: str) -> str:
        """Return a hash of the file, what it may include, and whatever else makes a library."""
        digest = hashlib.sha256()
        for file in (FOLDER / self.file, *sorted(FOLDER.glob("*.h"))):
            digest.update(file.read_bytes())
        for part in parts:
            digest.update(b"\0" + part.encode())
        return digest.hexdigest()[:_DIGITS]


# Every library there is.
FLOAT32_KERNELS = KernelSource("kernels-float32", "kernels.cpp", ("FORMAT=float",))
BFLOAT16_KERNELS = KernelSource("kernels-bfloat16", "kernels.cpp", ("FORMAT=BFloat16",))
FLOAT32_BLOCKS = KernelSource("blocks-float32", "blocks.cpp", ("FORMAT=float",))
BFLOAT16_BLOCKS = KernelSource("blocks-bfloat16", "blocks.cpp", ("FORMAT=BFloat16",))
HALF_PRODUCTS = KernelSource("half-products", "half_products.cpp", needs=frozenset({"avx512_fp16"}))
DECODING = KernelSource("decoding", "decoding.cpp")
SOURCES = (FLOAT32_KERNELS, BFLOAT16_KERNELS, FLOAT32_BLOCKS, BFLOAT16_BLOCKS, HALF_PRODUCTS, DECODING)


def built_in(source: KernelSource) -> Path | None:
    """Return the library that the package has brought for the best level of this processor, if it has any."""
    if VARIABLE in os.environ:
        return None
    for level in levels_here():
        if library := whole_library(_BUILT_IN, _built_in_name(source, level)):
            return library
    return None


def build_in(package: Path) -> list[Path]:
    """Compile every library for every level of this kind of processor into a package that is to be distributed.

    Args:
        package: The folder of this package in it.

    Raises:
        NoKernelsError: There is no compiler.
    """
    folder = package / _BUILT_IN.name
    folder.mkdir(parents=True, exist_ok=True)
    compiler = find_compiler().command
    libraries = []
    for source, level in itertools.product(SOURCES, levels_of(machine())):
        if source.needs <= level.needs:
            command = [*compiler, *source.flags(level), *_flags_for_others()]
            library = compile_into(folder, _built_in_name(source, level), command, source)
            library.chmod(0o755)
            libraries.append(library)
    return libraries


def _built_in_name(source: KernelSource, level: Level) -> str:
    return f"{source.name}-{level.name}-{source.digest(*source.flags(level))}"


def _flags_for_others() -> tuple[str, ...]:
    """What else a library needs that is to run on machines without a compiler's own libraries."""
    return ("-s", "-static-libstdc++", "-static-libgcc") if platform.system() == "Linux" else ()


def compiled(source: KernelSource) -> Path:
    """Return a shared library, compiled now if it is not in the cache.

    Raises:
        NoKernelsError: There is no compiler, or it fails; or the cache is not this user's alone.
    """
    if platform.system() not in {"Linux", "Darwin"}:
        raise NoKernelsError(f"not on {platform.system()}")
    from lorakit.runs import cache_folder

    level = wished_level()
    compiler = find_compiler()
    flags = (*source.flags(level), *_FLAGS_OF_VENDORS.get(processor.vendor(), ()))
    try:
        key = source.digest(*flags, compiler.version, processor.identity())
        folder = cache_folder() / "kernels"
        library = whole_library(folder, f"{source.name}-{level.name}-{key}")
        if library is None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _sweep(folder)
            library = compile_into(folder, f"{source.name}-{level.name}-{key}", [*compiler.command, *flags], source)
        _check_is_own(library)
    except (OSError, CompilerError) as error:
        raise NoKernelsError(f"the C++ compiler failed ({error})") from error
    return library


def whole_library(folder: Path, beginning: str) -> Path | None:
    """Find a library by the beginning of its name, and leave out what is damaged."""
    for found in folder.glob(f"{beginning}-*.so"):
        if _is_whole(found):
            return found
    return None


def compile_into(folder: Path, beginning: str, command: Sequence[str], source: KernelSource) -> Path:
    """Compile a library into a folder, whole or not at all; several processes may do so at once."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=_UNFINISHED) as unfinished:
        built = Path(unfinished) / "library.so"
        output_of([*command, str(FOLDER / source.file), "-o", str(built)], LONGEST_SECONDS)
        built.chmod(0o700)  # whatever the umask
        with built.open("rb") as file:
            os.fsync(file.fileno())
        library = folder / f"{beginning}-{_content_digest(built)}.so"
        for other in folder.glob(f"{beginning}-*.so"):
            if not _is_whole(other):  # a whole one another process has just built, and is about to load
                other.unlink(missing_ok=True)
        built.replace(library)
    return library


def _content_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:_DIGITS]


def _is_whole(library: Path) -> bool:
    return library.stem.rpartition("-")[2] == _content_digest(library)


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        if left.is_dir() and time.time() - left.stat().st_mtime > 2 * LONGEST_SECONDS:  # rmtree would open a pipe
            shutil.rmtree(left, ignore_errors=True)


def _check_is_own(library: Path) -> None:
    """Refuse what somebody else could have written: to load a library is to run it."""
    found = library.stat()
    if found.st_uid != os.getuid() or found.st_mode & _OTHERS_MAY_WRITE:
        raise NoKernelsError(f"others may write {library}")
