"""A file of rows, read, encoded and accounted for: no row vanishes without a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from lorakit import console
from lorakit.config import Config
from lorakit.config.settings import RowSource
from lorakit.data_processing.chat_format import ChatFormat
from lorakit.data_processing.encoding import encode_rows
from lorakit.data_processing.example import EncodedExample, Example, Rejected, shortened
from lorakit.data_processing.files import Reading, read_rows
from lorakit.data_processing.formats import RowRules, to_example
from lorakit.data_processing.ledger import FieldFate, Ledger, field_lines
from lorakit.data_processing.mixing import held_back, weighted
from lorakit.data_processing.raw import RawRow
from lorakit.errors import DataError

_SHOWN_REJECTIONS = 10
_ROWS_AT_ONCE = 1000
_SHOWN_NAME = 40


@dataclass(frozen=True)
class Dataset:
    """The usable rows of one file, and what became of the others.

    Attributes:
        name: The file, as the user named it.
        examples: The usable rows as conversations.
        encoded: Their sequences of token ids; a row has one, or one for each answer where the template needs it.
        cut: Origins of rows that lost the beginning of their prompt.
        rejected: Rows that are not used, each with its reason.
        fields: What became of every column and key.
    """

    name: str
    examples: tuple[Example, ...]
    encoded: tuple[EncodedExample, ...]
    cut: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    fields: tuple[FieldFate, ...] = ()

    @property
    def tokens(self) -> int:
        """All tokens of all sequences."""
        return sum(len(sequence.input_ids) for sequence in self.encoded)

    @property
    def picture_tokens(self) -> int:
        """Those of them that stand for pictures."""
        return sum(picture.tokens for sequence in self.encoded for picture in sequence.pictures)

    @property
    def targets(self) -> int:
        """The tokens that carry loss."""
        return sum(sequence.targets for sequence in self.encoded)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence.input_ids) for sequence in self.encoded)

    @property
    def duplicates(self) -> tuple[str, ...]:
        """Origins of rows that repeat an earlier row word for word."""
        seen: set[object] = set()
        repeated = []
        for example in self.examples:
            if example.messages in seen:
                repeated.append(example.origin)
            seen.add(example.messages)
        return tuple(repeated)

    @property
    def contradictions(self) -> tuple[str, ...]:
        """Origins of rows whose question an earlier row answers otherwise, each with that of the earlier one."""
        answered: dict[object, Example] = {}
        found = []
        for example in self.examples:
            first = answered.setdefault(example.messages[:-1], example)
            if first.messages[-1] != example.messages[-1]:
                found.append(f"{example.origin}, otherwise in {first.origin}")
        return tuple(found)

    @property
    def trains_thinking(self) -> bool:
        """Whether most answers reason before they answer."""
        thoughtful = sum(example.messages[-1].reasons for example in self.examples)
        return thoughtful * 2 > len(self.examples)

    def first(self, rows: int) -> Dataset:
        """Return the first usable rows alone."""
        examples = self.examples[:rows]
        origins = {example.origin for example in examples}
        encoded = tuple(sequence for sequence in self.encoded if sequence.origin in origins)
        return Dataset(
            self.name, examples, encoded, tuple(name for name in self.cut if name in origins), (), self.fields
        )

    def split(self, share: float, seed: int) -> tuple[Dataset, Dataset]:
        """Hold back a share of the rows by question; see `held_back`.

        Returns:
            The rows that are trained, and those that are held back.
        """
        chosen = held_back(self.examples, share, seed)
        train, held_out = (
            Dataset(
                name,
                tuple(example for example in self.examples if (example.origin in chosen) == is_held),
                tuple(sequence for sequence in self.encoded if (sequence.origin in chosen) == is_held),
                tuple(origin for origin in self.cut if (origin in chosen) == is_held),
                () if is_held else self.rejected,
                () if is_held else self.fields,
            )
            for name, is_held in ((self.name, False), (f"{share:.0%} of {self.name}", True))
        )
        return train, held_out

    def rejection_lines(self, most: int = _SHOWN_REJECTIONS) -> list[str]:
        """Name the rows that are not used and why, the first ``most`` of them."""
        return _lines(self.rejected, most)

    def overlap(self, other: Dataset) -> tuple[str, ...]:
        """Origins of rows of this file whose conversation also stands in ``other``."""
        known = {example.messages for example in other.examples}
        return tuple(example.origin for example in self.examples if example.messages in known)


def load_dataset(
    sources: str | Sequence[RowSource], config: Config, chat_format: ChatFormat, position_limit: int | None = None
) -> Dataset:
    """Read and encode rows.

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
    ledger = Ledger(rules.ignored)
    examples: list[Example] = []
    encoded: list[EncodedExample] = []
    cut: list[str] = []
    rejected: list[Rejected] = []
    for source in listed:
        first, first_sequence = len(examples), len(encoded)
        for chunk in _chunks(source.path, _reading(source, config, rules)):
            read = [row if isinstance(row, Rejected) else to_example(row, rules, ledger) for row in chunk]
            usable = [example for example in read if not isinstance(example, Rejected)]
            outcomes = iter(encode_rows(usable, chat_format, max_length, config.train_reasoning))
            for example in read:
                outcome = example if isinstance(example, Rejected) else next(outcomes)
                if isinstance(outcome, Rejected) or isinstance(example, Rejected):
                    rejected.append(outcome if isinstance(outcome, Rejected) else example)  # type: ignore[arg-type]
                    continue
                examples.append(example)
                encoded += outcome.sequences
                if outcome.is_cut:
                    cut.append(example.origin)
        if source.weight != 1:
            chosen, sequences = weighted(examples[first:], encoded[first_sequence:], source, config.seed)
            examples[first:], encoded[first_sequence:] = chosen, sequences
    name = ", ".join(source.path for source in listed)
    fields = ledger.fates()
    _refuse_lost_fields(name, fields)
    if not examples:
        raise DataError(_nothing_usable(name, rejected), _common_hint(rejected))
    return Dataset(name, tuple(examples), tuple(encoded), tuple(cut), tuple(rejected), fields)


def _reading(source: RowSource, config: Config, rules: RowRules) -> Reading:
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


def _chunks(name: str, reading: Reading) -> Iterator[list[RawRow | Rejected]]:
    """Yield the rows of a file, so many at a time that encoding them together pays; where that takes long, show it."""
    rows = read_rows(name, reading)
    first = list(islice(rows, _ROWS_AT_ONCE))
    yield first
    if len(first) < _ROWS_AT_ONCE:
        return
    done = len(first)
    with console.progress(None, f"reading {shortened(name, _SHOWN_NAME)}") as bar:
        while chunk := list(islice(rows, _ROWS_AT_ONCE)):
            bar.update(done)
            yield chunk
            done += len(chunk)


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


def _common_hint(rejected: list[Rejected]) -> str:
    hints = {item.hint for item in rejected}
    return (hints.pop() if len(hints) == 1 else None) or 'a row is {"text": "question", "target": "answer"}'


def _nothing_usable(name: str, rejected: list[Rejected]) -> str:
    if not rejected:
        return f"{name}: holds no rows"
    lines = _lines(rejected, _SHOWN_REJECTIONS)
    if len(rejected) > 1 and len({item.reason for item in rejected}) == 1:
        lines = [f"{rejected[0].origin} and all others: {rejected[0].reason}"]
    return "\n".join([f"{name}: no usable row among {len(rejected)}", *lines])


def _lines(rejected: Sequence[Rejected], most: int) -> list[str]:
    lines = [f"{item.origin}: {item.reason}" for item in rejected[:most]]
    return [*lines, f"... and {len(rejected) - most} more"] if len(rejected) > most else lines
