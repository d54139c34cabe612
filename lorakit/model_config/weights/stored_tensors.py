"""The tensors of a model as its files hold them, and those that these hold in fewer bits given back their width.

gpt-oss is published in MXFP4, other models in FP8. They are widened when they are read, one tensor at a time and in the
same way on every device: an adapter is trained over the numbers that the bits stand for, and merged into these.

Source: Open Compute Project, Microscaling Formats (MX) 1.0, for MXFP4 and its scales; gpt-oss, DeepSeek-V3, Qwen3 and
compressed-tensors for the names and layouts of what is published.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lorakit.incoming import read_json
from lorakit.model_config.source import tensor_headers, weight_files

# What weights are in, and the settings by which transformers widens them, by the method that config.json names.
NARROW = {
    "mxfp4": ("MXFP4", "Mxfp4Config"),
    "fp8": ("FP8", "FineGrainedFP8Config"),
    "compressed-tensors": ("FP8", "CompressedTensorsConfig"),
}
_FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
_SCALES = ("_scale_inv", "_scale")  # behind the name of a weight in FP8
_OF_ACTIVATIONS = (".activation_scale", ".input_scale")  # by which other programs round what goes into a layer
_HALF_BYTES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)  # E2M1
_BLOCK_BYTES = 16  # of MXFP4: 32 numbers that share a scale
_EXPONENT_BIAS = 127  # of E8M0, whole powers of two
_OF_EXPERTS = 3  # dimensions of weights that are held together

Header = tuple[str, tuple[int, ...]]  # number format and shape
Widen = Callable[..., torch.Tensor]  # from the parts to the tensor


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a model, read when it is asked for.

    Attributes:
        shape: As it is computed with.
        parts: Names in the files of what it is made of.
        read_part: From such a name to what the files hold.
        widen: From the parts, or those of one expert, to float32; None where a file holds the tensor itself.
        dtype: In which it is returned where it is widened.
    """

    shape: tuple[int, ...]
    parts: tuple[str, ...]
    read_part: Callable[[str], torch.Tensor]
    widen: Widen | None = None
    dtype: torch.dtype = torch.float32

    def read(self) -> torch.Tensor:
        """Return a copy; experts are widened one by one, so that there is never more than one of them in float32."""
        parts = [self.read_part(name) for name in self.parts]
        if self.widen is None:
            return parts[0].clone()
        if len(self.shape) < _OF_EXPERTS:
            return self.widen(*parts).to(self.dtype)
        wide = torch.empty(self.shape, dtype=self.dtype)
        for number, row in enumerate(wide):
            row.copy_(self.widen(*(part[number] if part.dim() else part for part in parts)))
        return wide

    def __getitem__(self, whole: Any) -> torch.Tensor:
        """Let transformers read it as it reads a tensor of a file: when its turn has come, in the file's own memory."""
        return (self.read_part(self.parts[0]) if self.widen is None else self.read())[whole]


def narrow_method(folder: Path) -> str | None:
    """Return the method by which config.json says that weights are in fewer bits, where these are widened here.

    Raises:
        OSError, ValueError: It is damaged.
    """
    how = _quantization_settings(folder)
    method = how.get("quant_method")
    if method == "compressed-tensors" and how.get("format") != "float-quantized":
        return None
    return method if isinstance(method, str) and method in NARROW else None


def _quantization_settings(folder: Path) -> Mapping[str, Any]:
    """Return what a config.json says of weights in fewer bits, the language model's part of it too."""
    file = folder / "config.json"
    settings = read_json(file) if file.is_file() else {}
    for part in (settings, settings.get("text_config")):
        how = part.get("quantization_config") if isinstance(part, Mapping) else None
        if isinstance(how, Mapping):
            return how
    return {}


def tensor_shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Read name and shape of every tensor, as it is computed with, from the headers of a model's files.

    Raises:
        OSError, ValueError, KeyError, TypeError, struct.error: A file is damaged.
    """
    return ((name, tensor.shape) for name, tensor in stored_tensors(folder).items())


def stored_tensors(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, StoredTensor]:
    """Open the tensors of a model's folder by the names that they have where they are held in full.

    Args:
        folder: Of the model.
        dtype: Of those that are widened.

    Raises:
        OSError, ValueError: A file is damaged, or holds numbers in fewer bits in another way.
    """
    method, how = narrow_method(folder), _quantization_settings(folder)
    headers = {name: (found["dtype"], tuple(found["shape"])) for name, found in tensor_headers(folder)}
    read = _Files(folder).read
    if method is None:
        return {name: StoredTensor(shape, (name,), read) for name, (_, shape) in headers.items()}
    found = _of_mxfp4(headers, read) if method == "mxfp4" else _of_fp8(headers, read, how.get("weight_block_size"))
    if not any(one.widen for one in found.values()):
        raise ValueError("its weights are in fewer bits, says config.json, and its files have none that are")
    return {name: replace(one, dtype=dtype) for name, one in found.items()}


def _of_mxfp4(headers: Mapping[str, Header], read: Callable[[str], torch.Tensor]) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    for name, (written, shape) in headers.items():
        base = name.removesuffix("_blocks")
        scales = headers.get(f"{base}_scales")
        if name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" in headers:
            continue
        if base == name or scales is None:
            found[name] = StoredTensor(shape, (name,), read)
            continue
        if (written, scales) != ("U8", ("U8", shape[:-1])) or shape[-1:] != (_BLOCK_BYTES,):
            raise ValueError(f"{name} is {written} {list(shape)}, {base}_scales {scales[0]} {list(scales[1])}")
        *experts, rows, blocks, _ = shape
        wide = (*experts, blocks * 2 * _BLOCK_BYTES, rows)
        found[base] = StoredTensor(wide, (name, f"{base}_scales"), read, _widened_mxfp4)
    return found


def _widened_mxfp4(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Widen [..., rows, blocks, 16] bytes, two numbers in each, to [..., blocks * 32, rows]."""
    pairs = torch.tensor([[_HALF_BYTES[byte & 15], _HALF_BYTES[byte >> 4]] for byte in range(256)])  # [256, 2]
    numbers = pairs[blocks.int()].flatten(-2)  # [..., rows, blocks, 32]
    numbers.mul_(_whole_power(scales)[..., None])
    return numbers.flatten(-2).transpose(-1, -2).contiguous()


def _of_fp8(headers: Mapping[str, Header], read: Callable[[str], torch.Tensor], block: Any) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    scales: set[str] = set()
    for name, (written, shape) in headers.items():
        if written not in _FP8:
            found[name] = StoredTensor(shape, (name,), read)
            continue
        scale = next((name + ending for ending in _SCALES if name + ending in headers), None)
        if scale is None:
            raise ValueError(f"{name} is in FP8 and has no scale")
        sizes = _block_of(shape, headers[scale][1], block)
        if sizes is None:
            raise ValueError(f"{name} has {list(shape)} numbers, and {scale} {list(headers[scale][1])}")
        scales.add(scale)
        found[name] = StoredTensor(shape, (name, scale), read, partial(_widened_fp8, block=sizes))
    return {name: one for name, one in found.items() if name not in scales and not name.endswith(_OF_ACTIVATIONS)}


def _block_of(shape: tuple[int, ...], scales: tuple[int, ...], block: Any) -> tuple[int, ...] | None:
    """Return the sizes of what shares a scale, one for each dimension of a weight; None where they do not fit."""
    if math.prod(scales) == 1:
        return shape
    if len(scales) != len(shape) or not all(scales):
        return None
    named = tuple(block) if isinstance(block, list | tuple) else ()
    sizes = (*[1] * (len(shape) - len(named)), *named)[-len(shape) :]
    are_sizes = all(isinstance(size, int) and size > 0 for size in sizes)
    if are_sizes and scales == tuple(-(-count // size) for count, size in zip(shape, sizes, strict=True)):
        return sizes
    if any(count % parts for count, parts in zip(shape, scales, strict=True)):
        return None
    return tuple(count // parts for count, parts in zip(shape, scales, strict=True))


def _widened_fp8(weight: torch.Tensor, scale: torch.Tensor, block: tuple[int, ...]) -> torch.Tensor:
    """Multiply each block of a weight by its scale; those at an edge may be smaller."""
    factors = _whole_power(scale) if scale.dtype is torch.uint8 else scale.float()
    if factors.numel() == 1:
        return weight.float() * factors.reshape(())
    for dimension, (count, size) in enumerate(zip(weight.shape, block, strict=True)):
        factors = factors.repeat_interleave(size, dimension).narrow(dimension, 0, count)
    return weight.float() * factors


def _whole_power(exponents: torch.Tensor) -> torch.Tensor:
    return torch.exp2(exponents.float() - _EXPONENT_BIAS)


class _Files:
    """Opens the files of a folder when the first of their tensors is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, Any] | None = None

    def read(self, name: str) -> torch.Tensor:
        if self._places is None:
            self._places = self._open()
        return self._places[name].get_tensor(name)  # type: ignore[no-any-return]

    def _open(self) -> dict[str, Any]:
        from safetensors import safe_open

        files: list[Any] = [safe_open(file, framework="pt") for file in weight_files(self._folder)]
        return {name: opened for opened in files for name in opened.keys()}  # noqa: SIM118 - no mapping
