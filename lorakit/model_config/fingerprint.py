"""What a base model's weights are, byte for byte, in 32 digits: whatever files they are spread over.

Every byte is hashed, at about the speed of memory. What a file holds is kept in lorakit's cache under the file's
identity (device, inode, size, and both of its times), so that it is read once.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from lorakit.incoming import read_json
from lorakit.runs import cache_folder, write_json

# Says how it was taken: one without it was taken by an earlier version, from samples, and tells nothing.
KIND = "xxh3:"
# A file that was changed within a tick of the clock after it was hashed could not be told from before.
_SETTLED_SECONDS = 2.0
_BLOCK_BYTES = 1 << 22


def weights_fingerprint(folder: Path) -> str:
    """Hash names, shapes, formats and all bytes of all weights in a model's folder.

    Raises:
        ValueError: A file is damaged; the text says which.
    """
    lines = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            lines += _tensors_of(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
            raise ValueError(f"{file.name} is damaged ({str(error)[:200] or type(error).__name__})") from error
    lines.sort()
    return KIND + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_header(stream: BinaryIO) -> dict[str, Any]:
    """Read the header of a safetensors file; the stream stands at its data afterwards.

    Raises:
        OSError, ValueError, struct.error: It is damaged.
    """
    header_bytes = struct.unpack("<Q", stream.read(8))[0]
    if header_bytes > os.fstat(stream.fileno()).st_size:
        raise ValueError("the header is longer than its file")
    return json.loads(stream.read(header_bytes))  # type: ignore[no-any-return]


def _tensors_of(file: Path) -> list[str]:
    """Return a line for each tensor of a file, from the cache where the file is the one that was hashed."""
    found = file.stat()
    identity = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    kept = cache_folder() / "fingerprints" / f"{found.st_dev}-{found.st_ino}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = read_json(kept)
        if content["file"] == identity and all(isinstance(line, str) for line in content["tensors"]):
            return list(content["tensors"])
    tensors = list(_hashed(file))
    if time.time() - max(found.st_mtime, found.st_ctime) > _SETTLED_SECONDS:
        with suppress(OSError):  # a cache that cannot be written costs time only
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, {"file": identity, "tensors": tensors})
    return tensors


def _hashed(file: Path) -> Iterator[str]:
    """Read every tensor of a file. Mapped into memory it would be a Bus error to those who cut it short meanwhile."""
    block = memoryview(bytearray(_BLOCK_BYTES))
    with open(file, "rb") as stream:
        header = read_header(stream)
        data_start = stream.tell()
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                stream.seek(data_start + begin)
                digest, left = xxhash.xxh3_128(), end - begin
                while left > 0:
                    taken = stream.readinto(block[: min(left, _BLOCK_BYTES)])
                    if not taken:
                        raise ValueError("it ends before its tensors do")
                    digest.update(block[:taken])
                    left -= taken
                yield f"{name} {tensor['dtype']} {tensor['shape']} {digest.hexdigest()}"
