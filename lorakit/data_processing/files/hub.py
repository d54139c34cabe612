"""Rows of a dataset on the Hub, through the library of its makers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lorakit.data_processing.files.tables import without_nulls
from lorakit.data_processing.raw import RawRow
from lorakit.errors import DataError
from lorakit.invocation import installing


def read_hub(name: str, configuration: str | None, split: str | None, most: int | None) -> Iterator[RawRow]:
    """Yield the rows of a dataset; pictures, sound and films as the bytes they are.

    Args:
        name: ``owner/name`` or ``owner/name:split``.
        configuration: Of a dataset that has several.
        split: Where the name has none; ``train`` where None. ``train[:1000]`` is understood too.
        most: Rows; with it the dataset is streamed and not fetched whole. None for all.

    Raises:
        DataError: It cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name}: there is no such file, and Hub datasets need the package datasets",
            f"correct the path, or: {installing('hub')}",
        ) from error
    repository, _, named_split = name.partition(":")
    split = named_split or split or "train"
    streamed = {"streaming": True} if most is not None and "[" not in split else {}
    named = {"name": configuration} if configuration else {}
    try:
        rows = datasets.load_dataset(repository, split=split, **named, **streamed)
        if rows.features is not None:
            rows = rows.cast(datasets.Features({key: _undecoded(kind) for key, kind in rows.features.items()}))
    except Exception as error:  # the library raises a dozen unrelated classes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{name}: is neither a file nor a Hub dataset that can be loaded ({reason})",
            "correct the path, or check the name, the split (owner/name:split) and the network",
        ) from error
    for number, fields in enumerate(rows, start=1):
        yield RawRow(without_nulls(fields), f"{name} row {number}")


def _undecoded(kind: Any) -> Any:
    """Return a column's kind with its pictures, sounds and films left as bytes and path."""
    import datasets

    if hasattr(kind, "decode") and dict(vars(kind)).get("decode"):
        return type(kind)(decode=False)
    if isinstance(kind, dict):
        return {key: _undecoded(inner) for key, inner in kind.items()}
    if isinstance(kind, list):
        return [_undecoded(inner) for inner in kind]
    if isinstance(kind, datasets.Sequence | getattr(datasets, "List", datasets.Sequence)):
        return type(kind)(_undecoded(kind.feature))
    return kind
