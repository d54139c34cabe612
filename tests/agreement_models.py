"""Small random models of any type, and what the engine gives for them held against plain transformers + PEFT."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from small_configs import small_config
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from lorakit.agreement import adaptable_targets, use_packed_attention
from lorakit.engine import IGNORED_LABEL, MicroBatch, accelerate, pieces_of, summed_loss, use_pieces

_LENGTHS = (6, 31, 14)
_PROMPT = 4  # tokens that are not trained


def small_model(model_type: str, **chosen: Any) -> Any:
    """A model with random weights, large enough that every part of it makes a difference."""
    is_whole = model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    kind = AutoModelForImageTextToText if is_whole else AutoModelForCausalLM
    torch.manual_seed(0)
    return spread(kind.from_config(small_config(model_type, **chosen), dtype=torch.float32))


def spread(model: Any) -> Any:
    """Move all weights away from the initial ones, beside which much would not be seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def _adapted(model: Any) -> Any:
    layers, experts = adaptable_targets(model)
    more = {"target_parameters": experts} if experts else {}
    settings = LoraConfig(r=2, target_modules=layers, init_lora_weights=False, **more)
    torch.manual_seed(3)
    adapted = get_peft_model(model, settings).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data *= 0.3
    return adapted


def _uncached(model: Any) -> dict[str, bool]:
    """Some families keep what they know by overwriting it, which autograd cannot follow."""
    takes = "use_cache" in inspect.signature(model.get_base_model().forward).parameters
    return {"use_cache": False} if takes else {}


def _rows(tokens: int) -> list[list[int]]:
    drawn = torch.Generator().manual_seed(7)
    return [torch.randint(5, tokens, (length,), generator=drawn).tolist() for length in _LENGTHS]


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def training_off(model: Any, found: Any) -> float:
    """How far the engine's loss and gradients are from those of the untouched model, row by row, all layers of it.

    Args:
        model: As it was loaded.
        found: What serves it.
    """
    use_pieces(model, found.pieces)
    plain, served = copy.deepcopy(model), model
    if found.pieces.attention:
        assert use_packed_attention(served)
    plain, served = _adapted(plain), _adapted(served)
    accelerate(served)
    tokens = min(model.get_input_embeddings().weight.shape[0], 300)
    rows = _rows(tokens)
    wanted = 0.0
    for row in rows:
        logits = plain(input_ids=torch.tensor([row]), **_uncached(plain)).logits[0, _PROMPT - 1 : -1].float()
        nats = cross_entropy(logits, torch.tensor(row[_PROMPT:]), reduction="sum")
        nats.backward()
        wanted += nats.item()
    loss = summed_loss(served, _packed(rows))
    loss.backward()
    parts = [abs(loss.item() - wanted) / wanted]
    exact, computed = _gradients(plain), _gradients(served)
    largest = max(one.norm() for one in exact.values())
    for name, value in exact.items():
        parts.append(float((computed[name] - value).norm() / max(value.norm(), 1e-4 * largest)))
    assert pieces_of(served.get_base_model()) == found.pieces
    return max(parts)


def _packed(rows: list[list[int]]) -> MicroBatch:
    ids = [token for row in rows for token in row]
    wanted = [[IGNORED_LABEL] * (_PROMPT - 1) + row[_PROMPT:] + [IGNORED_LABEL] for row in rows]
    places = [place for row in rows for place in range(len(row))]
    starts = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    flat = torch.tensor([[token for row in wanted for token in row]])
    return MicroBatch(torch.tensor([ids]), flat, torch.tensor([places]), starts)


def merging_off(model: Any) -> float | None:
    """How far the logits of merged weights are from those of the adapter; None where PEFT cannot merge them."""
    adapted, row = _adapted(model), torch.tensor([_rows(300)[1]])
    settings = _uncached(adapted)
    try:
        with torch.no_grad():
            wanted = adapted(input_ids=row, **settings).logits
            found = adapted.merge_and_unload()(input_ids=row, **settings).logits
    except Exception:  # each family in its own way
        return None
    return float((found - wanted).norm() / wanted.norm())
