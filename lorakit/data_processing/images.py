"""Picture files: checked, measured, and cut into patches as the model's own image processor does."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from lorakit.config import Config
from lorakit.data_processing.example import shortened
from lorakit.engine import Picture
from lorakit.errors import DataError, SettingsError
from lorakit.incoming import fault_of_file, has_half_character, is_missing, read_whole

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

IMAGE_MARK = "<image>"
_LONGEST_SIDE = 65_535  # pixels; a row of Pillow takes a pointer, and resizing has a table for each
_MOST_SOURCE_PIXELS = 95_000_000  # as bytes, twice over while they are resized, nearly a gigabyte
_MOST_BYTES = 500_000_000
_PIXELS_AT_ONCE = 1 << 20
_LONGEST_ASPECT = 200  # of Qwen's image processor
# Named in docs/vision.md. Pillow knows forty more, and goes by what a file holds, not by its name: an EPS file called
# cat.png would start Ghostscript on what it says.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Formats whose further frames are thumbnails or other views, not an animation.
_STILL_FORMATS = {"MPO"}


class ImageError(DataError):
    """A picture cannot be used; the text says which and why."""

    def __init__(self, message: str, hint: str = "name another picture, or leave it out") -> None:
        super().__init__(message, hint)


def resolve_image(name: str, folder: Path) -> str:
    """Return the path of a picture that a row names, relative to the folder of the data file.

    Raises:
        ImageError: It is no path.
    """
    if "://" in name or name.startswith("data:"):
        raise ImageError(f"picture {name[:60]!r} is not a file; save it beside the data file and name its path")
    if not name.strip():
        raise ImageError("a picture's path is empty")
    if "\0" in name or has_half_character(name):
        raise ImageError(f"picture {shortened(name)!r} is not a possible file name")
    return str(folder / name)


class ImageFormat:
    """How one model takes pictures.

    Args:
        processor: The model's image processor.
        token_id: The token that stands for a part of a picture.
        min_pixels: A smaller picture is enlarged.
        max_pixels: A larger picture is reduced.

    Raises:
        SettingsError: The two bounds exclude each other, or leave no room for a single token.
    """

    def __init__(self, processor: Any, token_id: int, min_pixels: int, max_pixels: int) -> None:
        self.token_id = token_id
        self._processor = processor
        self._size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
        self._side = processor.patch_size * processor.merge_size  # of a token, in pixels
        if max_pixels < max(min_pixels, self._side**2):
            raise SettingsError(
                f"max_pixels: {max_pixels} is below "
                + (f"min_pixels {min_pixels}" if max_pixels < min_pixels else f"one token's {self._side**2}"),
                "raise max_pixels or lower min_pixels",
            )
        self._measure = lru_cache(maxsize=None)(self._measured)

    @classmethod
    def of(cls, found: tuple[Any, int] | None, config: Config) -> ImageFormat | None:
        """Make one from a model's image processor and token; None where the model takes text only."""
        return None if found is None else cls(*found, config.min_pixels, config.max_pixels)

    def measure(self, path: str) -> Picture:
        """Read a picture and find out how many tokens it takes.

        Raises:
            ImageError: It is missing, damaged, animated, too large or too narrow.
        """
        return self._measure(path, _version(path))

    def _measured(self, path: str, version: tuple[int, ...]) -> Picture:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        content = _read(path)
        width, height = _open(path, content).size
        if max(width, height) > _LONGEST_ASPECT * min(width, height):
            raise ImageError(f"picture {path} is {width} x {height}, too narrow; crop it")
        rows, columns = smart_resize(height, width, self._side, self._size["shortest_edge"], self._size["longest_edge"])
        if rows * columns > self._size["longest_edge"]:  # a side is one token at least
            raise ImageError(
                f"picture {path} is {width} x {height}, so narrow that the model's own rounding makes {columns} x "
                f"{rows} of it, more than max_pixels {self._size['longest_edge']}; crop it, or raise max_pixels"
            )
        patch, hashed = self._processor.patch_size, _hash(content)
        read, check = partial(self._patches, path, hashed), partial(_check_unchanged, path, hashed, version)
        return Picture(path, hashed, rows // patch, columns // patch, self._processor.merge_size, read, check)

    def _patches(self, path: str, hashed: str) -> torch.Tensor:
        content = _read(path)
        if _hash(content) != hashed:
            raise _changed(path)
        pixels = _pixels(_open(path, content))
        found = self._processor(
            images=[pixels], size=self._size, input_data_format="channels_first", return_tensors="pt"
        )
        return found["pixel_values"]  # type: ignore[no-any-return]  # [patches, values of a patch]


def expand_pictures(
    input_ids: Sequence[int], labels: Sequence[int], pictures: Sequence[Picture], token_id: int, ignored: int
) -> tuple[list[int], list[int], tuple[int, ...]]:
    """Let each picture's single token become as many as the picture takes.

    Args:
        input_ids: [tokens], one ``token_id`` for each picture.
        labels: [tokens]
        pictures: In order.
        token_id: Of pictures.
        ignored: The label of a picture's tokens.

    Returns:
        Token ids and labels, [tokens], and the index of each picture's first token.

    Raises:
        ImageError: There are more such tokens than pictures.
    """
    if input_ids.count(token_id) > len(pictures):
        raise ImageError("the chat template writes more pictures than there are")
    waiting = iter(pictures)
    ids: list[int] = []
    expanded: list[int] = []
    starts: list[int] = []
    for token, label in zip(input_ids, labels, strict=True):
        if token != token_id:
            ids.append(token)
            expanded.append(label)
            continue
        picture = next(waiting)
        starts.append(len(ids))
        ids += [token_id] * picture.tokens
        expanded += [ignored] * picture.tokens
    return ids, expanded, tuple(starts)


def _version(path: str) -> tuple[int, ...]:
    """Return which file stands there, its size, and when it was last changed; zeros where there is none."""
    try:
        found = Path(path).stat()
    except OSError:  # opening it will say why
        return (0, 0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _hash(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)


def _check_unchanged(path: str, hashed: str, version: tuple[int, ...]) -> None:
    """Raise where a file has another content; one that was only touched or copied over itself has not."""
    if _version(path) != version and _hash(_read(path)) != hashed:
        raise _changed(path)


def _changed(path: str) -> ImageError:
    return ImageError(f"picture {path} has changed while it was used")


def _read(path: str) -> bytes:
    fault = fault_of_file(path)
    if fault is not None and not is_missing(fault):
        raise ImageError(f"picture {path} {fault}")
    try:
        return read_whole(Path(path), _MOST_BYTES)
    except FileNotFoundError:
        raise ImageError(f"picture {path} does not exist (paths in rows are relative to the data file)") from None
    except OSError as error:
        raise ImageError(f"picture {path} cannot be read ({error.strerror})") from None


def _open(path: str, content: bytes) -> Image:
    """Decode a picture whole: upright, in the colours it is written in, grey in 8 bits."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.init()  # else Pillow knows only half of the formats until it is asked for all
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
            if opened.width * opened.height > _MOST_SOURCE_PIXELS or max(opened.size) > _LONGEST_SIDE:
                raise ImageError(f"picture {path} claims {opened.width} x {opened.height} pixels; reduce it")
            if getattr(opened, "n_frames", 1) > 1 and opened.format not in _STILL_FORMATS:
                raise ImageError(f"picture {path} is animated or has several pages; save one of them")
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)  # else a copy, also of what stands upright: 4 bytes a pixel
            if opened.mode == "F":
                raise ImageError(f"picture {path} holds fractions, not colours; save it as PNG")
            return _grey(opened, path) if opened.mode.startswith("I") else opened
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"picture {path} claims far too many pixels; reduce it") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"picture {path} cannot be read: it is none, or of an unknown format ({', '.join(_FORMATS)} are known)"
        ) from None
    except Exception as error:  # Pillow's decoders raise what they like
        raise ImageError(f"picture {path} cannot be read ({type(error).__name__}: {error})") from None


def _pixels(image: Image) -> torch.Tensor:
    """Return a picture in RGB, on white where it is transparent: bytes, [3, height, width].

    A few rows at a time: whole, each step of it would be another copy, of 4 bytes a pixel.
    """
    import numpy
    import torch

    whole = numpy.empty((image.height, image.width, 3), numpy.uint8)
    at_once = max(_PIXELS_AT_ONCE // image.width, 1)
    for top in range(0, image.height, at_once):
        strip = image.crop((0, top, image.width, min(top + at_once, image.height)))
        whole[top : top + at_once] = numpy.asarray(_rgb(strip))
    return torch.from_numpy(whole).permute(2, 0, 1)


def _rgb(image: Image) -> Image:
    from PIL import Image as PillowImage

    if image.has_transparency_data:
        layered = image.convert("RGBA")
        return PillowImage.alpha_composite(PillowImage.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image, path: str) -> Image:
    """Bring grey of 16 or 32 bits to 8; of 32 bits as many count as the picture uses."""
    whole = image.convert("I")
    least, most = whole.getextrema()
    if least < 0:  # type: ignore[operator]
        raise ImageError(f"picture {path} holds numbers below zero, not grey; save it as PNG")
    used = 16 if image.mode != "I" else next(bits for bits in (8, 16, 32) if most < 2**bits)  # type: ignore[operator]
    return whole.point(lambda grey: grey / 2 ** (used - 8), "L")
