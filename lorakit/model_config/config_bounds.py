"""What a model's files may ask for before anything is reserved: no more and no wider layers than weights hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lorakit.errors import ModelError
from lorakit.incoming import read_json
from lorakit.model_config.source import ModelSource, weight_files
from lorakit.model_config.trust import first_line, is_fault

GENERATION_FILE = "generation_config.json"
_LAYERS = frozenset(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth"))
_WIDTHS = frozenset(
    (
        *("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size", "head_dim", "out_hidden_size"),
        *("num_attention_heads", "num_key_value_heads", "num_heads", "n_embd", "n_head", "n_inner", "ffn_dim"),
        *("word_embed_proj_dim", "num_experts", "num_local_experts"),
    )
)
_POSITIONS = frozenset(("max_position_embeddings", "n_positions", "n_ctx", "num_position_embeddings", "sliding_window"))
_MOST_POSITIONS = 10**9
_MOST_ELSEWHERE = 10**6  # of what is counted: each may become an object
_MOST_LAYERS = 1000  # of any kind, where the weights have fewer tensors
_LONG = (  # words in the names of numbers that may be large, of which nothing is made
    *("position", "ctx", "context", "seq", "length", "window", "chunk", "theta", "base", "pixel", "edge", "token"),
    *("freq", "seed", "param", "steps", "flops", "date", "value", "mask"),
)
_LARGEST_FLOAT = 3.4028235e38  # of float32, in which models compute
_EXPERTS = frozenset(("num_experts", "num_local_experts", "moe_intermediate_size"))  # none where a model has none
_MAY_BE_NOUGHT = _EXPERTS | {"sliding_window"}
_MAY_BE_NULL = _EXPERTS | {"head_dim", "num_key_value_heads", "n_inner", "n_ctx", "sliding_window", "intermediate_size"}
_AGAIN = "fetch the model again, all its files from the same place"


def check_sizes(source: ModelSource, settings: dict[str, Any]) -> None:
    """Hold the sizes in a model's config.json to its weights: a million layers would be built before any is missed.

    Raises:
        ModelError: One is no size, or larger than all weights.
    """
    tensors, widest = _extent(source)
    _check_numbers(source, settings, max(tensors, _MOST_LAYERS))
    limits = {**dict.fromkeys(_LAYERS, tensors), **dict.fromkeys(_WIDTHS, widest)}
    limits |= dict.fromkeys(_POSITIONS, _MOST_POSITIONS)
    for name, value in (*_sizes(settings), *_sizes(_with_defaults(source))):
        if value is None and name in _MAY_BE_NULL:
            continue
        if value == 0 and name in _MAY_BE_NOUGHT:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{source.name}: config.json: {name} is not a size (found: {_shown(value)})", _AGAIN)
        if value > limits[name]:
            reason = "more than any text has" if name in _POSITIONS else f"its weights have {limits[name]} at most"
            raise ModelError(f"{source.name}: config.json: {name} is {_shown(value)}, but {reason}", _AGAIN)


def _check_numbers(source: ModelSource, settings: dict[str, Any], layers: int) -> None:
    """Hold every number to what is no danger, whatever its name: a family makes lists and modules of many of them."""
    waiting: list[tuple[str, Any]] = list(settings.items())
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(name, inner) for inner in value]
        elif isinstance(value, int | float) and not _is_within(name, value, layers):
            raise ModelError(f"{source.name}: config.json: {name[:80]} is {_shown(value)}, which no model's is", _AGAIN)


def _is_within(name: str, value: float, layers: int) -> bool:
    name = name.lower()
    if "drop" in name and not 0 <= value <= 1:  # a share
        return False
    if isinstance(value, float):  # infinity stands for no limit in some families
        return not math.isnan(value) and (math.isinf(value) or abs(value) <= _LARGEST_FLOAT)
    if any(word in name for word in _LONG):
        return abs(value) <= _MOST_POSITIONS * 1000
    return abs(value) <= (layers if "layer" in name or "depth" in name else _MOST_ELSEWHERE)


def _with_defaults(source: ModelSource) -> dict[str, Any]:
    """Return what a model's config.json comes to: a size that it leaves out is that of the family's usual model."""
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=source.runs_own_code)
        return dict(found.to_dict())
    except BaseException as error:  # loading the model will say it
        if not is_fault(error):
            raise
        return {}


def _sizes(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for part in (settings, *(value for value in settings.values() if isinstance(value, dict))):
        for name in (*_LAYERS, *_WIDTHS, *_POSITIONS):
            value = part.get(name) if name in part else ()
            # some families have a width for each layer
            yield from ((name, one) for one in (value if isinstance(value, list | tuple) else [value]))


def _extent(source: ModelSource) -> tuple[int, int]:
    """Count a model's tensors, and find the widest; without files that can be read, take what no model has."""
    from safetensors import SafetensorError, safe_open

    count, widest = 0, 0
    try:
        for file in weight_files(source.folder):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - no mapping
                    count, widest = count + 1, max(widest, *opened.get_slice(name).get_shape(), 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):  # loading them will say it
        return 10_000, 2**31
    return (count, widest) if count else (10_000, 2**31)


def check_generation_file(source: ModelSource) -> None:
    """Hold generation_config.json to what is taken from it: the tokens at which answers end.

    Raises:
        ModelError: It is damaged.
    """
    file = source.folder / GENERATION_FILE
    if not file.is_file():
        return
    try:
        settings = read_json(file)
        if not isinstance(settings, dict):
            raise TypeError("it is no object")
        ends = settings.get("eos_token_id")
        listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
        if not all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in listed):
            raise TypeError("eos_token_id is not a token's number, or a list of them")
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{source.name}: {GENERATION_FILE} is damaged ({first_line(error)[:200]})", _AGAIN) from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
