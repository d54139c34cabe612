"""GGUF files in fewer bits, by llama.cpp's own quantiser, which comes with its Python package."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from gguf.constants import LlamaFileType

from lorakit.errors import ModelError, SettingsError

PYTHON_VARIABLE = "LLAMA_CPP_PYTHON"  # names another Python that has the package
QUANTISED = {
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
    "q5_k_m": LlamaFileType.MOSTLY_Q5_K_M,
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
}
# In a process of its own: where llama.cpp meets what it does not expect, it ends the process.
_PROGRAM = """
import sys, llama_cpp
source, target, kind = sys.argv[1], sys.argv[2], int(sys.argv[3])
how = llama_cpp.llama_model_quantize_default_params()
how.ftype = kind
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), how))
"""


def quantiser() -> str:
    """Return the Python that has llama.cpp's package.

    Raises:
        SettingsError: There is none.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return named
    if find_spec("llama_cpp") is None:
        raise SettingsError(
            f"export_dtype: {', '.join(QUANTISED)} are made by llama.cpp, whose Python package is not installed",
            "pip install -e .[gguf-quantized] (built from source), or name a Python that has it in "
            f"{PYTHON_VARIABLE}; q8_0 needs neither",
        )
    return sys.executable


def quantise(source: Path, target: Path, dtype: str) -> None:
    """Write a file anew in fewer bits; it is whole or not there.

    Args:
        source: A model's file in f32, f16 or bf16.
        target: To be written.
        dtype: A key of `QUANTISED`: the kind that llama.cpp calls so, in which some tensors have more bits.

    Raises:
        SettingsError: There is no quantiser.
        ModelError: It does not take the file.
    """
    temporary = target.with_name(f"{target.name}.writing")
    arguments = [str(source), str(temporary), str(QUANTISED[dtype].value)]
    try:
        done = subprocess.run(
            [quantiser(), "-c", _PROGRAM, *arguments], capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode or not temporary.is_file():
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ModelError(f"llama.cpp does not quantise this model ({said})", "set export_dtype=q8_0")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
