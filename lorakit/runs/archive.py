"""An earlier run in the same folder, kept: moved aside as a whole, numbered, and never deleted.

Its files lie loose among the user's own, so no single rename moves them. They are linked into a folder that gets its
name when it is whole, and only then vanish from their old place: at every moment they stand in one place or in both.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from lorakit.errors import RunError
from lorakit.runs.names import ADAPTER_FOLDER, CHECKPOINT, FILES_OF_A_RUN
from lorakit.runs.storage import (
    clear_working_folder,
    discard,
    make_durable,
    make_tree_durable,
    working_folder,
    write_text,
)

PREVIOUS = "previous"
_UNFINISHED = ".lorakit-archiving"  # in an archive whose files may still stand in their old place as well


def archive_previous_run(folder: Path) -> Path | None:
    """Move what an earlier run left into ``previous/1``, ``previous/2`` and so on, so that no run overwrites another.

    Only names that lorakit writes are touched, whatever else lies in the folder.

    Returns:
        Where it went, or None where there was nothing.

    Raises:
        RunError: A file stands where the archive should be.
    """
    finish_archiving(folder)
    pieces = list(_pieces(folder))
    return move_aside(folder, pieces) if pieces else None


def move_aside(folder: Path, pieces: Sequence[Path]) -> Path:
    """Move some of what lies in a folder into ``previous/1``, ``previous/2`` and so on.

    Args:
        folder: Of a run.
        pieces: Files and folders in it.

    Returns:
        Where they went.

    Raises:
        RunError: A file stands where the archive should be.
    """
    shelf = folder / PREVIOUS
    if shelf.is_symlink() or (shelf.exists() and not shelf.is_dir()):  # a link may lead into somebody's own folders
        raise RunError(
            f"{shelf}: is a file or a link, where earlier runs are moved to", "move it, or set another output_dir"
        )
    writing = working_folder(shelf)
    writing.mkdir()
    write_text(writing / _UNFINISHED, "")
    for piece in pieces:
        _link(piece, writing / piece.name)
    make_tree_durable(writing)
    shelf.mkdir(exist_ok=True)
    archive = shelf / str(1 + max(map(_number, shelf.iterdir()), default=0))
    os.replace(writing, archive)
    make_durable(shelf)
    make_durable(folder)
    finish_archiving(folder)
    return archive


def has_run(folder: Path) -> bool:
    """Tell whether an earlier run has left something that `archive_previous_run` would move."""
    return any(_pieces(folder)) if folder.is_dir() else False


def has_unfinished_run(folder: Path) -> bool:
    """Tell whether a run has left checkpoints and no adapter."""
    pieces = list(_pieces(folder)) if folder.is_dir() else []
    return any(CHECKPOINT.match(path.name) for path in pieces) and not (folder / ADAPTER_FOLDER).is_dir()


def finish_archiving(folder: Path) -> None:
    """Take away what a crash has left: an archive that got no name, and in its old place what an archive has."""
    clear_working_folder(folder / PREVIOUS)
    for note in sorted((folder / PREVIOUS).glob(f"*/{_UNFINISHED}")):
        for kept in note.parent.iterdir():
            piece = folder / kept.name
            if kept == note or not _is_the_same(piece, kept):
                continue
            if piece.is_dir() and not piece.is_symlink():
                discard(piece)
            else:
                piece.unlink()
        make_durable(folder)
        note.unlink()


def _pieces(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in FILES_OF_A_RUN or (CHECKPOINT.match(path.name) and path.is_dir()):
            yield path


def _number(path: Path) -> int:
    return int(path.name) if re.fullmatch(r"[0-9]{1,9}", path.name) else 0


def _link(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=_link_file)
    else:
        _link_file(str(source), str(target))


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(source, target, follow_symlinks=False)


def _is_the_same(piece: Path, kept: Path) -> bool:
    """Tell whether all that stands in the old place stands in the archive too."""
    if piece.is_symlink() or kept.is_symlink():
        return piece.is_symlink() and kept.is_symlink() and os.readlink(piece) == os.readlink(kept)
    if piece.is_dir() and kept.is_dir():
        return all(_is_the_same(path, kept / path.name) for path in piece.iterdir())
    if not (piece.is_file() and kept.is_file()):
        return os.path.lexists(piece) and os.path.samefile(piece, kept)  # a pipe, which has no content
    return os.path.samefile(piece, kept) or filecmp.cmp(piece, kept, shallow=False)
