"""A tokenizer as llama.cpp keeps it: tokens, merges, how text is split first, and where answers end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gguf import GGUFWriter
from gguf.constants import TokenType

from lorakit.data_processing import ChatFormat
from lorakit.errors import ModelError
from lorakit.export.gguf.sentencepiece import add_sentencepiece, is_sentencepiece

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_BYTES, _WORDS_AND_BYTES, _DIGITS = "bytes", "words and bytes", "digits"
_BEFORE_NUMBERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_AFTER_NUMBERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SINGLE_DIGITS = _BEFORE_NUMBERS + r"\p{N}" + _AFTER_NUMBERS
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # of tiktoken's o200k_base, which gpt-oss and Phi-4-mini have
_THREE_DIGITS = _BEFORE_NUMBERS + r"\p{N}{1,3}" + _AFTER_NUMBERS

# From how text is split before merging, and whether a piece that is a token is taken without merging, to llama.cpp's
# name for both. Source: llama.cpp, src/llama-vocab.cpp.
_SPLITTINGS: dict[tuple[tuple[str, ...], bool], str] = {
    ((_WORDS_AND_BYTES,), False): "gpt-2",
    ((_DIGITS, _WORDS_AND_BYTES), False): "smollm",
    ((_SINGLE_DIGITS, _BYTES), False): "qwen2",
    ((_THREE_DIGITS, _BYTES), True): "llama-bpe",
    ((_THREE_DIGITS, _BYTES), False): "dbrx",
    ((_O200K, _BYTES), False): "gpt-4o",
}
_ELSEWHERE = "write a merged model instead (--task merge), and convert it with llama.cpp's own script"


def add_tokenizer(
    writer: GGUFWriter, config: PretrainedConfig, chat_format: ChatFormat, stop_ids: list[int], rows: int
) -> None:
    """Write tokenizer, chat template and ends of answers into the metadata.

    Args:
        writer: Of the file.
        config: Of the model.
        chat_format: With the tokenizer.
        stop_ids: At which answers end, the trained end of turn among them.
        rows: Of the model's embedding; what is beyond the tokenizer is filled with tokens that are never used.

    Raises:
        ModelError: llama.cpp has no such tokenizer.
    """
    tokenizer = chat_format.tokenizer
    definition = _definition(tokenizer)
    tokens, types = token_table(tokenizer, rows)
    if is_sentencepiece(definition):
        add_sentencepiece(writer, definition, tokenizer, tokens, types)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(splitting_name(definition))
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([_merge(merge) for merge in definition["model"]["merges"]])
    _add_special_tokens(writer, config, chat_format, stop_ids)
    writer.add_chat_template(tokenizer.get_chat_template())


def token_table(tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[list[str], list[TokenType]]:
    """Return text and type of every token, in the order of their ids.

    Args:
        tokenizer: Of the model.
        rows: Of the model's embedding.
    """
    texts = {token_id: text for text, token_id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    types = dict.fromkeys(texts, TokenType.NORMAL)
    types |= {
        token_id: TokenType.CONTROL if token.special else TokenType.USER_DEFINED for token_id, token in added.items()
    }
    types |= dict.fromkeys(tokenizer.all_special_ids, TokenType.CONTROL)
    return (
        [texts.get(row, f"[PAD{row}]") for row in range(rows)],
        [types.get(row, TokenType.UNUSED) for row in range(rows)],
    )


def splitting_name(definition: dict[str, Any]) -> str:
    """Return llama.cpp's name for how a tokenizer splits text before it merges.

    Args:
        definition: The content of tokenizer.json.

    Raises:
        ModelError: There is no name for it.
    """
    splitting = tuple(_changes(definition["normalizer"]) + _steps(definition["pre_tokenizer"]))
    takes_tokens = bool(definition["model"].get("ignore_merges"))
    name = _SPLITTINGS.get((splitting, takes_tokens))
    if name is None and (splitting, not takes_tokens) in _SPLITTINGS and _merges_make_all(definition):
        name = _SPLITTINGS[splitting, not takes_tokens]  # then it makes no difference
    if name is None:
        raise ModelError(
            f"the tokenizer splits text in a way that GGUF export has no name for: {' then '.join(splitting)}",
            _ELSEWHERE,
        )
    return name


def _merges_make_all(definition: dict[str, Any]) -> bool:
    """Whether each token comes out of the merges too, so that it does not matter whether it is taken without them."""
    from tokenizers import Tokenizer

    bare: dict[str, Any] = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "added_tokens": []}
    model = Tokenizer.from_str(
        json.dumps(definition | bare | {"model": definition["model"] | {"ignore_merges": False}})
    )
    added = {token["content"] for token in definition["added_tokens"]}
    return all(len(model.model.tokenize(token)) == 1 for token in definition["model"]["vocab"] if token not in added)


def begins_with_bos(chat_format: ChatFormat) -> bool:
    """Return whether the tokenizer puts a beginning before every text, and the trained texts have it."""
    tokenizer = chat_format.tokenizer
    begin = tokenizer.bos_token_id
    is_added = begin is not None and tokenizer("a")["input_ids"][:1] == [begin]
    return is_added and chat_format.rendering().startswith(str(tokenizer.bos_token))


def _steps(step: dict[str, Any] | None) -> list[str]:
    kind = step["type"] if step else "nothing"
    if step is None or kind not in _READERS:
        return [kind]
    return _READERS[kind](step)


def _changes(step: dict[str, Any] | None) -> list[str]:
    # NFC is left out by llama.cpp's converters too: it changes only what is typed as letter and accent apart.
    return [] if step is None or step["type"] == "NFC" else [f"a change of the text ({step['type']})"]


def _byte_level(step: dict[str, Any]) -> list[str]:
    if step.get("add_prefix_space"):
        return ["a space before the text", _WORDS_AND_BYTES]
    return [_WORDS_AND_BYTES if step.get("use_regex", True) else _BYTES]


def _split(step: dict[str, Any]) -> list[str]:
    is_plain = step["behavior"] == "Isolated" and not step["invert"] and "Regex" in step["pattern"]
    return [step["pattern"]["Regex"] if is_plain else json.dumps(step)]


_READERS = {
    "Sequence": lambda step: [name for inner in step["pretokenizers"] for name in _steps(inner)],
    "Digits": lambda step: [_DIGITS if step["individual_digits"] else "runs of digits"],
    "ByteLevel": _byte_level,
    "Split": _split,
}


def _definition(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    core = getattr(tokenizer, "backend_tokenizer", None)
    definition = json.loads(core.to_str()) if core is not None else {"model": {"type": type(tokenizer).__name__}}
    model = definition["model"]
    if model["type"] != "BPE" or model.get("end_of_word_suffix"):
        raise ModelError("GGUF is written for BPE tokenizers, which this model's is not", _ELSEWHERE)
    return definition  # type: ignore[no-any-return]


def _merge(merge: str | list[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _add_special_tokens(
    writer: GGUFWriter, config: PretrainedConfig, chat_format: ChatFormat, stop_ids: list[int]
) -> None:
    tokenizer, end = chat_format.tokenizer, chat_format.end_of_turn_id
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else config.bos_token_id
    ids = {
        writer.add_bos_token_id: begin,
        writer.add_eos_token_id: end,
        writer.add_eot_token_id: end if end != tokenizer.eos_token_id else None,
        writer.add_eom_token_id: next((token_id for token_id in stop_ids if token_id != end), None),
        writer.add_unk_token_id: tokenizer.unk_token_id,
        writer.add_pad_token_id: tokenizer.pad_token_id,
    }
    for add, token_id in ids.items():
        if token_id is not None:
            add(token_id)
    writer.add_add_bos_token(begins_with_bos(chat_format))
    writer.add_add_eos_token(False)
