"""Tokens of the user's own, whose rows of the embedding are trained beside LoRA by PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from lorakit.errors import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LONGEST = 100


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Give a tokenizer tokens that stand for themselves wherever they are written.

    Args:
        tokenizer: Of the base; it is changed.
        tokens: As text.

    Raises:
        SettingsError: One is a token already, or no single word.
    """
    from transformers import AddedToken

    for number, token in enumerate(tokens):
        if not token or len(token) > _LONGEST or any(character.isspace() for character in token):
            raise SettingsError(f"add_tokens: {token[:_LONGEST]!r} is no single word", "leave out its spaces")
        if token in tokens[:number] or len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1:
            raise SettingsError(f"add_tokens: {token} is one token already", "leave it out")
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])


def token_rows(
    model: Any, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]
) -> list[int] | dict[str, Any] | None:
    """Return PEFT's ``trainable_token_indices``: of the embedding, and of an output layer that is not tied to it."""
    if not tokens:
        return None
    ids = [int(number) for number in tokenizer.convert_tokens_to_ids(list(tokens))]
    if getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return ids
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {name.rpartition(".")[2]: ids for name, module in model.named_modules() if module in ends}


def grow(model: Any, rows: int) -> None:
    """Give a model more rows of its embedding, which an adapter must bring, and its output layer as many.

    Rows of an output layer that is not tied and that the adapter has none for are the mean of the others, with which
    a token is hardly ever the likeliest: PEFT alone would leave them to chance.
    """
    head = model.get_output_embeddings()
    known = {} if head is None else {name: own.detach().clone() for name, own in head.named_parameters()}
    model.resize_token_embeddings(rows, mean_resizing=False)
    head = model.get_output_embeddings()
    if head is None or head.weight is model.get_input_embeddings().weight:
        return
    with torch.no_grad():
        for name, before in known.items():
            head.get_parameter(name).copy_(grown(before, rows))


def grown(before: torch.Tensor, rows: int) -> torch.Tensor:
    """Return an output layer's weight or bias with more rows: the mean of those that there are."""
    mean = before.float().mean(dim=0, keepdim=True).to(before.dtype)
    return torch.cat([before, mean.expand(rows - len(before), *before.shape[1:])])


def begin_rows(adapted: Any, plain: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Let the rows of new tokens begin as the mean of those of the pieces that they were before, in float32.

    Args:
        adapted: The model, with a new adapter.
        plain: The tokenizer of its base.
        tokens: As text.
    """
    pieces = [plain(token, add_special_tokens=False)["input_ids"] for token in tokens]
    for module in adapted.modules():
        if not is_token_wrapper(module) or module.token_adapter.tied_adapter:
            continue
        weight, rows = module.token_adapter.base_layer.weight, module.token_adapter.trainable_tokens_delta
        means = [weight[own].float().mean(dim=0) for own in pieces]
        rows["default"] = torch.nn.Parameter(torch.stack(means).detach())  # [tokens, hidden]


def is_token_wrapper(module: Any) -> bool:
    """Whether a module of PEFT has rows of tokens that are trained."""
    from peft.utils.other import TrainableTokensWrapper

    return isinstance(module, TrainableTokensWrapper)
