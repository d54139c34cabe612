"""What libraries must find when they are imported: before that, nobody asks them."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys

from lorakit.errors import RunError

_MOST_SHOWN = 300
# Read by libraries once, when they are imported. What the user has set stands.
_SETTINGS = {
    # oneDNN keeps 1,024 compiled kernels by default, 190 MB after three epochs of rows of many lengths. A step needs
    # about 25 of them, so 128 are as fast.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    # Threads that wait for each other look so many times, about 20 microseconds, before they sleep; by default for
    # milliseconds, in which other work has the core that the last one waits for.
    "GOMP_SPINCOUNT": "10000",
    # Where a process of several is gone, PyTorch's C++ would print a stack trace for each of the others.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
}
# Each says something of what nobody here has asked for. bitsandbytes, which PEFT imports where it is installed, looks
# for faster products with 4 bits on CPUs, where lorakit does not use them.
_IRRELEVANT = ("bitsandbytes.backends.cpu.ops",)
# What is imported first of each library, its name, and how the variables begin that it reads then.
_READ_THE_ENVIRONMENT = {
    "torch": ("PyTorch", ("TORCH", "PYTORCH", "CUDA")),
    "huggingface_hub.constants": ("huggingface_hub", ("HF_", "HUGGING", "DO_NOT_TRACK", "DISABLE_TELEMETRY")),
    "accelerate": ("accelerate", ("ACCELERATE",)),
    "transformers": ("transformers", ("TRANSFORMERS", "HF_", "USE_", "ENV_VARS")),
}
_PROCESSORS = re.compile(r"[\s,]*(\d{1,5}(-\d{1,5}(:\d{1,5})?)?([\s,]+|$))*")
_ALLOCATOR = re.compile(r"(\w+:(\[[^\[\]]*\]|[^,\[\]]+)(,(?!$)|$))*")
_BY_THE_ALLOCATOR = (
    _ALLOCATOR,
    "such as expandable_segments:True",
    "names and values, without which PyTorch would abort",
)
# What C and C++ read while they are loaded, when no error can be caught: how it is written, an example, and what else.
_READ_BY_C = {
    "GOMP_CPU_AFFINITY": (_PROCESSORS, "such as 0-3", "numbers of processors, without which OpenMP would never start"),
    "PYTORCH_ALLOC_CONF": _BY_THE_ALLOCATOR,
    "PYTORCH_CUDA_ALLOC_CONF": _BY_THE_ALLOCATOR,
    "PYTORCH_HIP_ALLOC_CONF": _BY_THE_ALLOCATOR,
}
_MISSES_TRITON = "torch.utils.flop_counter"


def settle_libraries() -> None:
    """Set what the libraries read, and keep what nobody can use out of the terminal. PyTorch is not imported."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in _IRRELEVANT:
        logging.getLogger(name).setLevel(logging.ERROR)


def start_libraries() -> None:
    """Import PyTorch and what else reads the environment when it is imported, so that nonsense there is a sentence.

    Without a GPU nothing is compiled with triton, which PyTorch's compiler loads all the same: 79 MB. PyTorch's counter
    of operations, which nobody uses, would complain that it is not there.

    Raises:
        RunError: One of them does not start.
    """
    for variable, (grammar, example, becomes) in _READ_BY_C.items():
        if not grammar.fullmatch(written := os.environ.get(variable, "")):
            raise RunError(
                f"{variable}={written[:_MOST_SHOWN]!r}: is not written as {becomes}", f"write {example}, or unset it"
            )
    for module, (name, beginnings) in _READ_THE_ENVIRONMENT.items():
        given = [found for found in os.environ if found.startswith(beginnings) and found not in _SETTINGS]
        try:
            if given or module == "torch":
                importlib.import_module(module)
        except ImportError:
            raise  # `lorakit.__main__` says how to start instead
        except Exception as error:  # what is in its variables of the environment
            reason = " ".join(str(error).split())[:_MOST_SHOWN]
            raise RunError(
                f"{name} does not start ({reason})",
                f"unset what it cannot read in the environment ({', '.join(sorted(given))})",
            ) from error
    import torch

    if not torch.accelerator.is_available():
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
        logging.getLogger(_MISSES_TRITON).setLevel(logging.ERROR)
