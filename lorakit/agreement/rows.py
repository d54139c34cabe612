"""Two short rows of random tokens, of unequal lengths and with a common beginning; the longer one exceeds windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lorakit.engine import IGNORED_LABEL, MicroBatch

_BEGINNING, _SHORT, _LONG = 5, 3, 19  # tokens; the lengths are those without the beginning
_FIRST_TARGET = 2  # of a row's own tokens
PREFIX = 11  # of the long row, for what comes after it must not matter


def trial_rows(config: Any, tokens: int) -> tuple[list[int], list[int]]:
    """Draw the rows from the tokens that stand for text.

    Args:
        config: Of the model, which names tokens that stand for pictures and the like.
        tokens: How many the model knows.
    """
    special = set(_special_tokens(config))
    plain = [token for token in range(tokens) if token not in special]
    drawn = torch.randint(len(plain), (_BEGINNING + _SHORT + _LONG,), generator=torch.Generator().manual_seed(1))
    ids = [plain[place] for place in drawn.tolist()]
    beginning, short, long = ids[:_BEGINNING], ids[_BEGINNING : _BEGINNING + _SHORT], ids[_BEGINNING + _SHORT :]
    return beginning + short, beginning + long


def _special_tokens(config: Any) -> Iterator[int]:
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is None:
            continue
        for name, value in vars(part).items():
            if name.endswith(("token_id", "token_index", "_token", "_ids")):
                yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))


def next_ids(row: Sequence[int]) -> list[int]:
    """Return what each token of a row is to predict; those at its beginning nothing."""
    first = _BEGINNING + _FIRST_TARGET - 1
    return [IGNORED_LABEL] * first + list(row[first + 1 :]) + [IGNORED_LABEL]


def packed(rows: Sequence[Sequence[int]], is_shared: bool, device: torch.device) -> MicroBatch:
    """Lay rows end to end, with their beginning only once where it is shared."""
    left_out = _BEGINNING if is_shared else 0
    ids, wanted, places = list(rows[0][:left_out]), [IGNORED_LABEL] * left_out, list(range(left_out))
    starts = [left_out]
    for row in rows:
        ids += row[left_out:]
        wanted += next_ids(row)[left_out:]
        places += range(left_out, len(row))
        starts.append(len(ids))
    input_ids, predicted, position_ids = (torch.tensor([one]) for one in (ids, wanted, places))
    return MicroBatch(input_ids, predicted, position_ids, torch.tensor(starts)).to(device)
