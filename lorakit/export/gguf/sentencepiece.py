"""Tokenizers of SentencePiece's kind as llama.cpp keeps them: no merges, but a score for each token.

Spaces are written as U+2581, and what is no token falls apart into bytes, as in Gemma, Phi-3 and Llama 2. llama.cpp
joins neighbours whose union is a token, that of the highest score first, wherever they came from. A list of merges says
the same only if it has every way to make a token, and all those of one token together; other lists are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gguf import GGUFWriter
from gguf.constants import TokenType

from lorakit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE = "\u2581"
_ELSEWHERE = "write a merged model instead (--task merge), and convert it with llama.cpp's own script"
_REPLACED = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPENDED = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, _REPLACED]}
# Which does nothing: it comes after all spaces have been replaced.
_IDLE_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
_LEAST_SCORE = -1e6  # of tokens that nothing is joined to
# Control tokens that swallow white space behind them: llama.cpp has none of this kind but Phi-3's, which it knows by
# the name of the model.
_SWALLOWS, _PHI_3 = "phi-3", frozenset({"<unk>", "<s>", "<|endoftext|>"})


def is_sentencepiece(definition: dict[str, Any]) -> bool:
    """Whether a tokenizer is of this kind, by the content of its tokenizer.json."""
    return definition["model"]["type"] == "BPE" and bool(definition["model"].get("byte_fallback"))


def add_sentencepiece(
    writer: GGUFWriter,
    definition: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    tokens: list[str],
    types: list[TokenType],
) -> None:
    """Write tokens, their types and their scores.

    Args:
        writer: Of the file.
        definition: The content of tokenizer.json.
        tokenizer: The same, loaded.
        tokens: By their ids.
        types: By their ids.

    Raises:
        ModelError: llama.cpp would read text otherwise.
    """
    begins = _begins_with_space(definition)
    _check_added(writer, tokenizer)
    joined = _ranks(definition)
    types = [_type(token, kind, definition) for token, kind in zip(tokens, types, strict=True)]
    _check_bytes(tokens, types)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(joined[token]) if token in joined else _LEAST_SCORE for token in tokens])
    writer.add_token_types(types)
    writer.add_add_space_prefix(begins)


def _begins_with_space(definition: dict[str, Any]) -> bool:
    """Whether a space is put before every text; raise where text is changed or split in other ways."""
    known = {str(_REPLACED): False, str(_PREPENDED): True}
    begins = known.get(str(definition["normalizer"]))
    if begins is None or definition["pre_tokenizer"] not in (None, _IDLE_SPLIT) or definition["model"]["ignore_merges"]:
        kinds = [step["type"] for step in (definition["normalizer"], definition["pre_tokenizer"]) if step]
        raise ModelError(
            f"the tokenizer prepares text in a way that GGUF export has no name for: {' then '.join(kinds)}", _ELSEWHERE
        )
    return begins


def _check_added(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    added = tokenizer.added_tokens_decoder.values()
    swallowing = {token.content for token in added if token.rstrip}
    others = {token.content for token in added if token.special and token.content not in swallowing}
    is_known = not swallowing or (others <= _PHI_3 and not any(t.rstrip and not t.special for t in added))
    if not is_known or any(token.lstrip or token.single_word for token in added):
        raise ModelError("the tokenizer has tokens that swallow white space, which GGUF has no word for", _ELSEWHERE)
    if swallowing:
        name = writer.kv_data[0]["general.name"]
        if _SWALLOWS not in name.value.lower():
            name.value = f"{name.value} ({_SWALLOWS})"


def _ranks(definition: dict[str, Any]) -> dict[str, int]:
    """Return in which place each token is made of others; raise where scores cannot say what the merges do."""
    pairs = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in definition["model"]["merges"]
    ]
    ranks: dict[str, int] = {}
    last = None
    for rank, (left, right) in enumerate(pairs):
        if left + right != last and left + right in ranks:
            raise _no_scores(left + right)
        last = left + right
        ranks.setdefault(last, rank)
    listed, tokens = set(pairs), definition["model"]["vocab"]
    for token in tokens:
        for left, right in _ways(token):
            if left in tokens and right in tokens and (left, right) not in listed:
                raise _no_scores(token)
    return ranks


def _ways(token: str) -> Iterable[tuple[str, str]]:
    return ((token[:end], token[end:]) for end in range(1, len(token)))


def _no_scores(token: str) -> ModelError:
    return ModelError(
        f"the tokenizer's merges make {token!r} in an order that scores of tokens, which GGUF has for this kind, "
        "cannot say",
        _ELSEWHERE,
    )


def _type(token: str, kind: TokenType, definition: dict[str, Any]) -> TokenType:
    if token == definition["model"].get("unk_token"):
        return TokenType.UNKNOWN
    return TokenType.BYTE if kind is TokenType.NORMAL and _byte_of(token) is not None else kind


def _byte_of(token: str) -> int | None:
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    try:
        return int(token[3:5], 16) if is_byte else None
    except ValueError:
        return None


def _check_bytes(tokens: list[str], types: list[TokenType]) -> None:
    """Some vocabularies have a token of their own in the place of a byte, as Gemma's first one for the tab."""
    bytes_found = {_byte_of(token) for token, kind in zip(tokens, types, strict=True) if kind is TokenType.BYTE}
    alone = {ord(token) for token in tokens if len(token) == 1}
    if missing := set(range(256)) - bytes_found - {code for code in alone if code < 128}:
        raise ModelError(f"the tokenizer has no token for the byte {min(missing)}", _ELSEWHERE)
