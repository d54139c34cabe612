"""Kernels of another kind of processor, computed by an emulator: the tests' own numbers go there and come back.

No Python with PyTorch runs there, so each call of a kernel is handed to a small program (emulated_driver.cpp) that the
kernels are linked with, with the memory that its pointers lead to.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch

from lorakit.engine.backends.cpu.build import FOLDER, SOURCES, KernelSource
from lorakit.engine.backends.cpu.levels import LEVELS

DRIVER = Path(__file__).parent / "emulated_driver.cpp"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PACKAGES = "g++-aarch64-linux-gnu qemu-user"
_PACKED = {"i": "<q", "f": "<f"}


def lacking() -> list[str]:
    """The programs that are needed and not here."""
    return [program for program in (COMPILER, EMULATOR) if shutil.which(program) is None]


class Emulated:
    """Loads libraries for another processor; takes the place of `kernel_library.load`."""

    def __init__(self, folder: Path, level: str) -> None:
        self.folder = folder
        self.level = next(one for one in LEVELS if one.name == level)
        self.loaded: dict[str, SimpleNamespace] = {}
        for source in SOURCES:  # those too whose arguments lead to further memory, which cannot be handed over
            library = str(folder / f"{source.name}.so")
            subprocess.run([COMPILER, *source.flags(self.level), str(FOLDER / source.file), "-o", library], check=True)

    def load(self, source: KernelSource) -> SimpleNamespace:
        if source.file == "blocks.cpp":  # pointers to pointers do not go there: see test_matmul.py
            return SimpleNamespace()
        if source.name not in self.loaded:
            self.loaded[source.name] = self._started(source)
        return self.loaded[source.name]

    def _started(self, source: KernelSource) -> SimpleNamespace:
        program = self.folder / source.name
        flags = [flag for flag in source.flags(self.level) if flag not in ("-shared", "-fPIC")]
        command = [COMPILER, *flags, "-static", str(FOLDER / source.file), str(DRIVER), "-o", str(program)]
        subprocess.run(command, check=True)
        process = subprocess.Popen([EMULATOR, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return SimpleNamespace(
            **{name: self._function(process, name, kinds) for name, kinds in described(self.folder, source).items()},
            how=f"emulated {self.level.name}",
        )

    @staticmethod
    def _function(process: subprocess.Popen, name: str, kinds: str) -> Callable[..., None]:
        def call(*arguments: torch.Tensor | int | float | None) -> None:
            places = [memory(one) for one in arguments if one is None or isinstance(one, torch.Tensor)]
            pointers = iter(places)
            process.stdin.write(struct.pack("<q", len(name)) + name.encode())
            for kind, argument in zip(kinds[1:], arguments, strict=True):
                if kind in _PACKED:
                    process.stdin.write(struct.pack(_PACKED[kind], argument))
                    continue
                place = next(pointers)
                process.stdin.write(struct.pack("<q", -1 if place is None else len(place)))
                process.stdin.write(b"" if place is None else bytes(place))
            process.stdin.flush()
            is_done = process.stdout.read(1)
            assert is_done, f"{name} ended the emulator"
            for place in filter(None, places):
                after = process.stdout.read(len(place))
                if after != place:  # what was only read may lie in what another pointer was written to
                    place[:] = after
            if is_done == b"\0":
                raise torch.OutOfMemoryError(name)

        return call


def memory(tensor: torch.Tensor | None) -> memoryview | None:
    """All bytes from a tensor's first to the end of what it lies in."""
    if tensor is None:
        return None
    if not tensor.numel():
        return memoryview(b"")
    storage = tensor.untyped_storage()
    rest = storage.nbytes() - tensor.storage_offset() * tensor.element_size()
    return memoryview((ctypes.c_char * rest).from_address(tensor.data_ptr())).cast("B")


def described(folder: Path, source: KernelSource) -> dict[str, str]:
    """The functions of a library and the kinds of their arguments, as this machine's own compiler finds them."""
    from lorakit.engine.backends.cpu import library as kernel_library

    return {name: function.kinds for name, function in vars(kernel_library.load(source)).items() if name != "how"}
