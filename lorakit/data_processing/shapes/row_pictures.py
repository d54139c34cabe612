"""Pictures as rows name or hold them, each brought to its place in the conversation."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lorakit.data_processing.example import Message, UnusableError
from lorakit.data_processing.images import IMAGE_MARK, ImageError, resolve_image
from lorakit.data_processing.ledger import Fields, is_empty, parsed_cell
from lorakit.data_processing.picture_values import held_picture
from lorakit.data_processing.shapes.turns import Draft
from lorakit.runs.cache import cache_folder

_OTHER_MARKS = re.compile(r"<(video|audio)>")
_PATH_IN_TEXT = re.compile(r"<img>([^<>]+)</img>")


def place_pictures(
    drafts: Sequence[Draft], fields: Fields, folder: Path, takes_pictures: bool | None
) -> tuple[Message, ...]:
    """Give every picture of a row its place: at its mark, or before the first question where there are no marks.

    Args:
        drafts: The turns, some with pictures of their own.
        fields: Of the row, whose column of pictures belongs to the marks that have none yet.
        folder: Of the data file, to which paths are relative.
        takes_pictures: Whether the model does; then a mark without a picture is refused, which else is text. None
            where that is not known.

    Raises:
        UnusableError: Pictures and marks do not match, or a picture is none.
    """
    if takes_pictures:
        drafts = [_with_paths_in_text(draft) for draft in drafts]
    listed = _listed(fields)
    name = fields.key("images")
    if listed:
        drafts = _distributed(drafts, listed, name)
    if takes_pictures is False and any(draft.pictures for draft in drafts):
        raise UnusableError(  # before its bytes are kept anywhere
            "has a picture, but this model takes text only",
            "take a model that sees, such as Qwen3-VL; ignore_fields leaves a column of pictures out",
        )
    for draft in drafts:
        _check_marks(draft, bool(takes_pictures))
    try:
        return tuple(
            replace(draft.message, images=tuple(_path_of(value, name, folder) for value in draft.pictures))
            if draft.pictures
            else draft.message
            for draft in drafts
        )
    except ImageError as refusal:
        raise UnusableError(refusal.message, refusal.hint) from None


def put_marks(message: Message, images: Sequence[str]) -> Message:
    """Give pictures to a question: at its marks, or before its text where it has none.

    Raises:
        ImageError: There are marks, but not as many as pictures.
    """
    marks = message.content.count(IMAGE_MARK)
    if marks and marks != len(images):
        raise ImageError(f"has {len(images)} pictures but {marks} marks {IMAGE_MARK}", "write a mark for each, or none")
    content = message.content if marks else IMAGE_MARK * len(images) + message.content
    return replace(message, content=content, images=tuple(images))


def _listed(fields: Fields) -> list[Any]:
    """Return the pictures of the row's own column."""
    if not fields.has("images"):
        return []
    value = parsed_cell(fields.take("images", "pictures"))
    listed = list(value) if isinstance(value, list | tuple) else [value]
    for one in listed:
        fields.account_for_picture(one, f"{fields.key('images')}[]")
    return [one for one in listed if not is_empty(one)]


def _with_paths_in_text(draft: Draft) -> Draft:
    """Read ``<img>a.png</img>``, as the first Qwen-VL's rows have it."""
    paths = _PATH_IN_TEXT.findall(draft.message.content)
    if not paths:
        return draft
    content = _PATH_IN_TEXT.sub(IMAGE_MARK, draft.message.content)
    return Draft(replace(draft.message, content=content), [*draft.pictures, *(path.strip() for path in paths)])


def _distributed(drafts: Sequence[Draft], listed: list[Any], name: str) -> list[Draft]:
    named = sum(picture is not None for draft in drafts for picture in draft.pictures)
    if named:
        raise UnusableError(f'names pictures both in its turns and in "{name}"')
    marks = sum(draft.message.content.count(IMAGE_MARK) for draft in drafts)
    first = next((place for place, draft in enumerate(drafts) if draft.message.role == "user"), None)
    if not marks and first is not None:
        question = drafts[first].message
        marked = Draft(replace(question, content=IMAGE_MARK * len(listed) + question.content), listed)
        return [*drafts[:first], marked, *drafts[first + 1 :]]
    if marks != len(listed):
        raise UnusableError(f"has {len(listed)} pictures but {marks} marks {IMAGE_MARK}")
    waiting = iter(listed)
    return [
        Draft(draft.message, [next(waiting) for _ in range(draft.message.content.count(IMAGE_MARK))])
        for draft in drafts
    ]


def _check_marks(draft: Draft, takes_pictures: bool) -> None:
    pictures, marks = draft.pictures, draft.message.content.count(IMAGE_MARK)
    if None in pictures:
        raise UnusableError('has a place for a picture that names none; name it there, or in a column "images"')
    if pictures and marks != len(pictures):  # a mark in the text beside parts: which one is meant?
        raise UnusableError(f"has {len(pictures)} pictures but {marks} marks {IMAGE_MARK} in one turn")
    if not takes_pictures:
        return
    if marks and not pictures:
        raise UnusableError(
            f'has {marks} marks {IMAGE_MARK} but no picture; name it in a column "images", or take the mark out'
        )
    if other := _OTHER_MARKS.search(draft.message.content):
        raise UnusableError(f"has the mark {other[0]}; only text and pictures are trained")


def _path_of(value: Any, name: str, folder: Path) -> str:
    """Return the file of a picture, written first where the row itself holds it; bytes come before any path."""
    content, hint = held_picture(value)
    if content is not None:
        return str(_kept(content, hint))
    if isinstance(value, Mapping):
        value = next(
            (value[key] for key in ("path", "url", "file_name", "image") if not is_empty(value.get(key))), None
        )
        if isinstance(value, Mapping | str) and (content := held_picture(value)[0]) is not None:
            return str(_kept(content, hint))
    if not isinstance(value, str) or not value.strip():
        found = "null" if value is None else type(value).__name__
        raise UnusableError(f'"{name}" is not the path of a picture (found: {found})')
    return resolve_image(unquote(value[7:]) if value.startswith("file:///") else value, folder)


def _kept(content: bytes, hint: str) -> Path:
    """Keep a picture as a file, called after its bytes; written whole or not at all."""
    digest = hashlib.sha256(content).hexdigest()
    stem = re.sub(r"[^\w.-]", "_", Path(hint.replace("\\", "/")).name)[-40:]
    file = cache_folder() / "pictures" / f"{digest[:32]}{'-' + stem if stem else ''}"
    try:
        if not file.is_file() or file.stat().st_size != len(content):
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor, writing = tempfile.mkstemp(dir=file.parent)
            with os.fdopen(descriptor, "wb") as written:
                written.write(content)
            os.replace(writing, file)
    except OSError as error:
        raise UnusableError(f"has a picture that cannot be kept in {file.parent} ({error.strerror})") from None
    return file
