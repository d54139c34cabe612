"""What a model computes of the trial's rows, and how far two such results lie apart."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from lorakit.agreement.rows import PREFIX, next_ids, packed
from lorakit.engine import IGNORED_LABEL, Pieces, summed_loss

NEW_TOKENS = 3
# A gradient this small beside the largest is rounding alone.
_NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Result:
    """A loss in nats, and the gradients of the adapter by name."""

    nats: float
    gradients: Mapping[str, torch.Tensor]

    def off(self, other: Result) -> float:
        """Return how far another result is from this one, by the matrix that is furthest, as a part of its size."""
        parts = [abs(other.nats - self.nats) / max(abs(self.nats), 1e-6)]
        largest = max((float(one.norm()) for one in self.gradients.values()), default=0.0)
        for name, wanted in self.gradients.items():
            found = other.gradients.get(name)
            difference = wanted if found is None else found - wanted
            parts.append(float(difference.norm()) / max(float(wanted.norm()), _NEGLIGIBLE * largest, 1e-30))
        return math.inf if any(math.isnan(part) for part in parts) else max(parts)

    def unheard(self) -> tuple[str, ...]:
        """Return the last names of layers of which no adapter has a gradient."""
        heard: dict[str, bool] = {}
        for name, gradient in self.gradients.items():
            layer = name.partition(".lora_")[0].rpartition(".")[2]
            heard[layer] = heard.get(layer, False) or bool(gradient.any())
        return tuple(sorted(layer for layer, is_heard in heard.items() if not is_heard))

    @property
    def is_sound(self) -> bool:
        """Whether everything is finite, and something is learnt."""
        sizes = [float(one.norm()) for one in self.gradients.values()]
        return math.isfinite(self.nats) and all(map(math.isfinite, sizes)) and sum(sizes) > 0


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    """Copy the gradients of what is trained, zeros where a parameter had no part in the loss."""
    return {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone()
        for name, one in model.named_parameters()
        if one.requires_grad
    }


def plain_result(model: Any, rows: Sequence[Sequence[int]]) -> Result:
    """Compute the rows one by one by the model's own code."""
    model.zero_grad(set_to_none=True)
    total = 0.0
    for row in rows:
        logits = plain_logits(model, row)  # [tokens, vocabulary]
        wanted = torch.tensor(next_ids(row), device=logits.device)
        nats = cross_entropy(logits.float(), wanted, reduction="sum", ignore_index=IGNORED_LABEL)
        nats.backward()
        total += nats.item()
    return Result(total, _gradients(model))


def plain_logits(model: Any, row: Sequence[int]) -> torch.Tensor:
    """Return what the model's own code makes of a row by itself, [tokens, vocabulary]."""
    base = model.get_base_model()
    device = base.get_input_embeddings().weight.device
    settings = {"use_cache": False} if "use_cache" in inspect.signature(base.forward).parameters else {}
    return model(input_ids=torch.tensor([list(row)], device=device), **settings).logits[0]  # type: ignore[no-any-return]


def engine_result(model: Any, rows: Sequence[Sequence[int]], is_shared: bool) -> Result:
    """Compute the rows together by the engine, as far as its pieces allow that."""
    model.zero_grad(set_to_none=True)
    device = model.get_input_embeddings().weight.device
    nats = summed_loss(model, packed(rows, is_shared, device))
    nats.backward()
    return Result(nats.item(), _gradients(model))


def engine_off(model: Any, rows: Sequence[Sequence[int]], pieces: Pieces, wanted: Result) -> float:
    """Return how far the engine is from what is wanted."""
    kinds = [False, True] if pieces.packing and pieces.beginning else [False]
    return max(wanted.off(engine_result(model, rows, is_shared)) for is_shared in kinds)


def causality_off(model: Any, row: Sequence[int]) -> float:
    """Return by how much later tokens change the logits of those before."""
    with torch.no_grad():
        whole, part = plain_logits(model, row), plain_logits(model, row[: min(PREFIX, len(row) - 1)])
    return relative(part, whole[: len(part)])


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the size of a difference as a part of what is wanted; infinite where one is not finite."""
    off = float((found - wanted).norm()) / max(float(wanted.norm()), 1e-30)
    return math.inf if math.isnan(off) else off


def answers_off(model: Any, reference: Any, rows: Sequence[Sequence[int]], is_together: bool, is_cached: bool) -> float:
    """Return how far the logits of written tokens are from those that plain passes give after the same tokens.

    Args:
        model: Writes, out of PEFT's wrapper.
        reference: Is asked anew for every token.
        rows: Questions of unequal lengths.
        is_together: Whether they are answered at once.
        is_cached: Whether what was computed for earlier tokens is kept.
    """
    groups = [list(rows)] if is_together else [[row] for row in rows]
    worst = 0.0
    for group in groups:
        written, logits = _written(model, group, is_cached)
        for number, row in enumerate(group):
            for step, found in enumerate(logits):
                with torch.no_grad():
                    wanted = plain_logits(reference, [*row, *written[number][:step]])[-1]
                worst = max(worst, relative(found[number], wanted))
    return worst


def _written(
    model: Any, prompts: Sequence[Sequence[int]], is_cached: bool
) -> tuple[list[list[int]], Sequence[torch.Tensor]]:
    """Let transformers write a few tokens; return them, and the logits of each step, [prompts, vocabulary]."""
    from transformers import GenerationConfig

    device = model.get_input_embeddings().weight.device
    longest = max(map(len, prompts))
    ids = torch.tensor([[prompts[0][0]] * (longest - len(row)) + list(row) for row in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=device)
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        use_cache=is_cached,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=prompts[0][0],
    )
    with torch.no_grad():
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    return found.sequences[:, longest:].tolist(), found.logits
