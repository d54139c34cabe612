"""Values that are pictures, whatever their field is called."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from lorakit.data_processing.example import UnusableError

_DATA_URL = re.compile(r"data:(?:image/[\w.+-]+)?((?:;[\w=.+-]+)*),", re.ASCII)
# How the files of common formats begin, and how that looks in base64.
_MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
# Keys of an object that holds or names a picture.
HOLDING = ("bytes", "data")
OF_PICTURES = (*HOLDING, "path", "url", "file_name", "image", "type", "media_type")
_LEAST_BASE64 = 64  # characters; a shorter text is a path
_PATH = re.compile(r"[^\n<>\"|]{1,250}\.(?:jpe?g|png|webp|gif|bmp|tiff?)(?:\?[^\s]*)?", re.IGNORECASE)
_BEGINS = 24  # characters of base64 that hold the beginning of any file


Kind = Literal["bytes", "path"]


def kind_of_picture(value: Any) -> Kind | None:
    """Tell a picture, or what names one; None for anything else."""
    if isinstance(value, list | tuple):
        return kind_of_picture(value[0]) if value and not isinstance(value[0], int) else None
    if isinstance(value, Mapping):
        held, path = value.get("bytes"), value.get("path")
        return (kind_of_picture(held) and "bytes") or (kind_of_picture(path) if isinstance(path, str) else None)
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes" if bytes(value[:8]).startswith(_MAGIC) else None
    return _kind_of_text(value) if isinstance(value, str) else None


def _kind_of_text(text: str) -> Kind | None:
    if _PATH.fullmatch(text.strip()):
        return "path"
    return "bytes" if text.startswith("data:image/") or _begins_picture(text) else None


def _begins_picture(text: str) -> bool:
    if len(text) < _LEAST_BASE64:
        return False
    try:
        return base64.b64decode(text[:_BEGINS], validate=True).startswith(_MAGIC)
    except (binascii.Error, ValueError):
        return False


def held_picture(value: Any) -> tuple[bytes | None, str]:
    """Return a picture that the row itself holds, as bytes, a data URL or base64, and what it is called."""
    if isinstance(value, Mapping):
        hint = value.get("path")
        kinds = (value.get("bytes"), value.get("url"), value.get("data") if value.get("type") == "base64" else None)
        found = (_content_of(held) for held in kinds if held)
        return next((content for content in found if content is not None), None), hint if isinstance(hint, str) else ""
    return _content_of(value), ""


def _content_of(value: Any) -> bytes | None:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, list):  # as JSON writes bytes
        is_bytes = value and all(isinstance(one, int) and 0 <= one < 256 for one in value)
        return bytes(value) if is_bytes else None
    if not isinstance(value, str):
        return None
    if url := _DATA_URL.match(value):
        rest = value[url.end() :]
        return _decoded(rest) if ";base64" in url[1] else unquote_to_bytes(rest)
    return _decoded(value, must_be_one=False) if len(value) >= _LEAST_BASE64 else None


def _decoded(text: str, must_be_one: bool = True) -> bytes | None:
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if content.startswith(_MAGIC) or (must_be_one and content):
        return content
    if must_be_one:
        raise UnusableError("has a picture whose base64 is damaged")
    return None
