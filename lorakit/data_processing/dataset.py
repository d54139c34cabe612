"""A file of rows, read, encoded and accounted for: no row vanishes without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorakit.config import Config
from lorakit.config.kinds import RowSource
from lorakit.data_processing.example import Rejected
from lorakit.data_processing.files.mixing import held_back, weighted
from lorakit.data_processing.files.opening import Reading
from lorakit.data_processing.kept_rows import read_or_kept
from lorakit.data_processing.ledger import FieldFate, field_lines
from lorakit.data_processing.reading import ReadRows
from lorakit.data_processing.shapes.formats import RowRules
from lorakit.data_processing.templates.chat_format import ChatFormat
from lorakit.data_processing.tokens.sequences import Conversations, Sequences
from lorakit.data_processing.tokens.written_rows import Encoding
from lorakit.errors import DataError, SettingsError

_SHOWN_REJECTIONS = 10


@dataclass(frozen=True)
class Dataset:
    """The usable rows of one file, and what became of the others.

    Attributes:
        name: The file, as the user named it.
        examples: The usable rows as conversations.
        encoded: Their sequences of token ids; a row has one, or one for each answer where the template needs it.
        rejected: Rows that are not used, each with its reason.
        fields: What became of every column and key.
    """

    name: str
    examples: Conversations
    encoded: Sequences
    rejected: tuple[Rejected, ...]
    fields: tuple[FieldFate, ...] = ()

    @property
    def cut(self) -> tuple[str, ...]:
        """Origins of rows that lost the beginning of their prompt."""
        return self.examples.origins(np.flatnonzero(self.examples.cut()))

    @property
    def tokens(self) -> int:
        """All tokens of all sequences."""
        return int(self.encoded.lengths().sum())

    @property
    def picture_tokens(self) -> int:
        """Those of them that stand for pictures."""
        return sum(picture.tokens for picture in self.encoded.pictures())

    @property
    def targets(self) -> int:
        """The tokens that carry loss."""
        return self.encoded.all_targets()

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.encoded.lengths().max())

    @property
    def duplicates(self) -> tuple[str, ...]:
        """Origins of rows that repeat an earlier row word for word."""
        wholes = self.examples.of("wholes")
        is_repeated = np.ones(len(wholes), bool)
        is_repeated[np.unique(wholes, return_index=True)[1]] = False
        return self.examples.origins(np.flatnonzero(is_repeated))

    @property
    def contradictions(self) -> tuple[str, ...]:
        """Origins of rows whose question an earlier row answers otherwise, each with that of the earlier one."""
        _, first, question = np.unique(self.examples.of("questions"), return_index=True, return_inverse=True)
        wholes, earlier = self.examples.of("wholes"), first[question]
        places = np.flatnonzero(wholes != wholes[earlier])
        pairs = zip(self.examples.origins(places), self.examples.origins(earlier[places]), strict=True)
        return tuple(f"{origin}, otherwise in {other}" for origin, other in pairs)

    @property
    def trains_thinking(self) -> bool:
        """Whether most answers reason before they answer."""
        return int(self.examples.reasons().sum()) * 2 > len(self.examples)

    def first(self, rows: int) -> Dataset:
        """Return the first usable rows alone."""
        return replace(self._of(self.examples.numbers()[:rows]), rejected=())

    def split(self, share: float, seed: int) -> tuple[Dataset, Dataset]:
        """Hold back a share of the rows by question; see `held_back`.

        Returns:
            The rows that are trained, and those that are held back.
        """
        is_held, numbers = held_back(self.examples.of("asked"), share, seed), self.examples.numbers()
        held_out = replace(self._of(numbers[is_held]), name=f"{share:.0%} of {self.name}", rejected=(), fields=())
        return self._of(numbers[~is_held]), held_out

    def _of(self, rows: NDArray[np.int64]) -> Dataset:
        """Return some of the rows, by their numbers in the columns, with their sequences."""
        sequences = self.encoded.numbers()[np.isin(self.encoded.of("rows"), rows)]
        columns = self.examples.columns
        return replace(self, examples=Conversations(columns, rows), encoded=Sequences(columns, sequences))

    def rejection_lines(self, most: int = _SHOWN_REJECTIONS) -> list[str]:
        """Name the rows that are not used and why, the first ``most`` of them."""
        return _lines(self.rejected, most)

    def overlap(self, other: Dataset) -> tuple[str, ...]:
        """Origins of rows of this file whose conversation also stands in ``other``."""
        is_there = np.isin(self.examples.of("wholes"), other.examples.of("wholes"))
        return self.examples.origins(np.flatnonzero(is_there))


def load_dataset(
    sources: str | Sequence[RowSource], config: Config, chat_format: ChatFormat, position_limit: int | None = None
) -> Dataset:
    """Read and encode rows, or take those of an earlier start where nothing has changed.

    Args:
        sources: A file, a folder or the name of a Hub dataset; or several.
        config: For field names, system prompt and max_length.
        chat_format: Of the base model's tokenizer.
        position_limit: The longest sequence the model can take, in tokens; None where it has no limit.

    Raises:
        DataError: The file cannot be read, none of its rows can be used, or a field that carries meaning is not used.
    """
    max_length = min(config.max_length, position_limit or config.max_length)
    listed = [RowSource(path=sources)] if isinstance(sources, str) else sources
    rules = RowRules.of(config, takes_pictures=chat_format.images is not None)
    readings = [_reading(source, config, rules) for source in listed]
    encoding = Encoding(rules, chat_format, max_length, config.train_reasoning)
    rows = read_or_kept(list(zip(listed, readings, strict=True)), encoding)
    name = ", ".join(source.path for source in listed)
    _refuse_lost_fields(name, rows.fields)
    if not rows.count:
        raise DataError(_nothing_usable(name, rows.rejected), _common_hint(rows.rejected))
    return Dataset(name, *_weighted(rows, listed, config.seed), rows.rejected, rows.fields)


def _weighted(rows: ReadRows, sources: Sequence[RowSource], seed: int) -> tuple[Conversations, Sequences]:
    """Give the rows of each source as many places in an epoch as its weight says."""
    every, all_sequences = Conversations(rows.columns), Sequences(rows.columns)
    if all(source.weight == 1 for source in sources):
        return every, all_sequences
    row_of, chosen, sequences = all_sequences.of("rows"), list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for source, (start, end) in zip(sources, rows.bounds, strict=True):
        own = np.flatnonzero((row_of >= start) & (row_of < end))
        used, again = weighted(np.arange(start, end), own, row_of[own], source, seed)
        chosen.append(used)
        sequences.append(again)
    return Conversations(rows.columns, np.concatenate(chosen)), Sequences(rows.columns, np.concatenate(sequences))


def _reading(source: RowSource, config: Config, rules: RowRules) -> Reading:
    if (source.split or source.config) and Path(source.path).exists():
        raise SettingsError(
            f"train_file: {source.path}: split and config are those of a Hub dataset, and this is a file",
            "leave them out, or name the file that holds the split",
        )
    limits = [most for most in (source.max_rows, config.max_rows) if most is not None]
    columns = frozenset(rules.renamed)
    return Reading(config.encoding, columns, source.config, source.split, min(limits, default=None))


def load_datasets(
    config: Config, chat_format: ChatFormat, position_limit: int | None
) -> tuple[Dataset, Dataset | None]:
    """Read and encode the training rows and, where there are some, the validation rows; see `load_dataset`."""
    train = load_dataset(config.train_file, config, chat_format, position_limit)
    if config.validation_share is not None:
        return train.split(config.validation_share, config.seed)
    if config.validation_file is None:
        return train, None
    return train, load_dataset(config.validation_file, config, chat_format, position_limit)


def load_training(config: Config, chat_format: ChatFormat, position_limit: int | None) -> Dataset:
    """Read and encode the rows that are trained, without those that are held back."""
    unread = config.model_copy(update={"validation_file": None})
    return load_datasets(unread, chat_format, position_limit)[0]


def load_validation(config: Config, chat_format: ChatFormat, position_limit: int | None) -> Dataset:
    """Read and encode the validation rows, which there must be."""
    if config.validation_file is not None:
        return load_dataset(config.validation_file, config, chat_format, position_limit)
    [_, held_out] = load_datasets(config, chat_format, position_limit)
    assert held_out is not None
    return held_out


def _refuse_lost_fields(name: str, fields: tuple[FieldFate, ...]) -> None:
    lost = tuple(field for field in fields if field.is_meant)
    if lost:
        raise DataError(
            "\n".join([f"{name}: what stands in these fields would not be trained", *field_lines(lost)]),
            "say in config.yaml what they are (map_fields) or that they do not matter (ignore_fields)",
        )


def _common_hint(rejected: Sequence[Rejected]) -> str:
    hints = {item.hint for item in rejected}
    return (hints.pop() if len(hints) == 1 else None) or 'a row is {"text": "question", "target": "answer"}'


def _nothing_usable(name: str, rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return f"{name}: holds no rows"
    lines = _lines(rejected, _SHOWN_REJECTIONS)
    if len(rejected) > 1 and len({item.reason for item in rejected}) == 1:
        lines = [f"{rejected[0].origin} and all others: {rejected[0].reason}"]
    return "\n".join([f"{name}: no usable row among {len(rejected)}", *lines])


def _lines(rejected: Sequence[Rejected], most: int) -> list[str]:
    lines = [f"{item.origin}: {item.reason}" for item in rejected[:most]]
    return [*lines, f"... and {len(rejected) - most} more"] if len(rejected) > most else lines
