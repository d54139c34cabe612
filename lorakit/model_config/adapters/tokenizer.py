"""The tokenizer in an adapter's folder: used where it has more than the base's own, such as added tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit import console
from lorakit.errors import AdapterError
from lorakit.model_config.adapters.record import read_record
from lorakit.model_config.checks.folder import check_adapter_folder
from lorakit.model_config.source import ModelSource
from lorakit.model_config.trust import first_line, read_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EMBEDDING = re.compile(r"embed|wte|trainable_tokens")
_HEAD = re.compile(r"lm_head|embed_out|output")
_FILES = ("tokenizer.json", "tokenizer_config.json")


def adapter_tokenizer(base: PreTrainedTokenizerBase, folder: Path) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer with which an adapter is to be used.

    Args:
        base: Of the base model.
        folder: Of the adapter.

    Returns:
        The adapter's own where it adds tokens, or, where it was made elsewhere, has another chat template; None where
        the base's serves.

    Raises:
        AdapterError: It cannot be read, must not be (see `check_adapter_folder`), or gives the base's tokens other ids.
    """
    if not all((folder / name).is_file() for name in _FILES):
        return None
    check_adapter_folder(folder)
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        assert own.all_special_ids is not None  # where one of them has none, it looks for it without end
    except Exception as error:  # the formats behind it raise what they like
        raise AdapterError(
            f"{folder}: its tokenizer cannot be loaded ({first_line(error)})",
            "copy the adapter's folder again, or remove the tokenizer's files where it is that of the base",
        ) from error
    ids, base_ids = own.get_vocab(), base.get_vocab()
    moved = [token for token, token_id in base_ids.items() if ids.get(token, token_id) != token_id]
    if moved and read_record(folder) is not None:
        return None  # its base is another one, which is said elsewhere
    if moved:
        raise AdapterError(
            f"{folder}: its tokenizer is of another model: {moved[0]!r} is token {ids[moved[0]]} there and "
            f"{base_ids[moved[0]]} in the base",
            "choose the base model that it was trained on, or an adapter of this model",
        )
    added = sorted(set(ids) - set(base_ids), key=lambda token: ids[token])
    is_rewritten = read_record(folder) is None and bool(own.chat_template) and own.chat_template != base.chat_template
    if added:
        console.note(f"{folder}: its tokenizer is used, which adds {len(added)} tokens, {added[0]!r} among them")
    elif is_rewritten:
        console.note(f"{folder}: its chat template is used, which is not that of the base")
    else:
        return None
    if not own.chat_template:
        own.chat_template = base.chat_template
    return own  # type: ignore[no-any-return]


def check_rows(tokenizer: PreTrainedTokenizerBase, folder: Path, source: ModelSource) -> None:
    """Refuse tokens for which neither the base nor the adapter has a row of its embedding.

    Raises:
        AdapterError: There are some.
    """
    from safetensors import safe_open

    settings = read_settings(source)
    rows = settings.get("text_config", settings).get("vocab_size")
    weights = folder / "adapter_model.safetensors"
    if not isinstance(rows, int) or len(tokenizer) <= rows or not weights.is_file():
        return
    try:
        with safe_open(weights, framework="pt") as tensors:
            names = tensors.keys()
    except Exception as error:  # safetensors' own class, or the system's
        raise AdapterError(
            f"{folder}: its weights cannot be read ({first_line(error)})", "copy the adapter's folder again"
        ) from error
    if any(_EMBEDDING.search(name) for name in names):
        is_apart = settings.get("text_config", settings).get("tie_word_embeddings") is False
        if is_apart and not any(_HEAD.search(name) for name in names):
            console.note(
                f"{folder}: it has no rows of the output layer for the tokens that it adds; those are the mean of the "
                "others, so these tokens are read and hardly ever written"
            )
        return
    raise AdapterError(
        f"{folder}: its tokenizer has {len(tokenizer)} tokens, its base {rows} rows, and it brings none for the others",
        "train it again with the rows of its tokens (PEFT's modules_to_save or trainable_token_indices)",
    )
