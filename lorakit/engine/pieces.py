"""Which of the engine's own ways serve a model: those that were shown to compute what the model itself computes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

_ATTRIBUTE = "_lorakit_pieces"
# Families with models that are loaded without a proof (in tests, and where one is resumed in another process).
PACKED_FAMILIES = frozenset({"gpt2", "llama", "mistral", "opt", "qwen2", "qwen3", "qwen3_vl"})


@dataclass(frozen=True)
class Pieces:
    """What may stand in for a model's own code, one by one.

    Attributes:
        linears: LoRA layers by `lora_linear`.
        layers: Norms, gated MLPs, attention and decoder layers by the engine's functions.
        attention: Packed rows by `packed_attention`, without a mask.
        packing: Several rows in one pass.
        beginning: What all rows begin with is computed once.
        loss: Logits are taken in chunks, within the loss.
        kept_logits: The model is asked only for the logits that are wanted, with positions and mask given.
        together: Several answers are written at once.
        cached: What was computed for a token serves all later ones of its answer.
        most_positions: Beyond so many tokens what a row gives depends on its neighbours, as its angles do; None where
            they never do.
        unheard: Last names of linear layers whose weight the model's code takes without calling them: adapters on them
            would change nothing, and never learn.
    """

    linears: bool = True
    layers: bool = True
    attention: bool = True
    packing: bool = True
    beginning: bool = True
    loss: bool = True
    kept_logits: bool = True
    together: bool = True
    cached: bool = True
    most_positions: int | None = None
    unheard: tuple[str, ...] = ()

    def without(self, *names: str) -> Pieces:
        """Return it with some switched off."""
        switched: dict[str, Any] = dict.fromkeys(names, False)
        return replace(self, **switched)

    def having(self, *names: str) -> Pieces:
        """Return it with some switched on."""
        switched: dict[str, Any] = dict.fromkeys(names, True)
        return replace(self, **switched)

    def up_to(self, most_positions: int | None) -> Pieces:
        """Return it for rows up to so many tokens."""
        return replace(self, most_positions=most_positions)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of those that are switched off."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name) is False)


ALL = Pieces()
NONE = ALL.without("linears", "layers", "attention", "packing", "beginning", "loss", "kept_logits")


def pieces_of(base: Any) -> Pieces:
    """Return what serves a base model; of one that nobody has tried, what serves its family."""
    found = getattr(base, _ATTRIBUTE, None)
    if isinstance(found, Pieces):
        return found
    family = getattr(getattr(base, "config", None), "model_type", None)
    return ALL if family in PACKED_FAMILIES else ALL.without("packing", "beginning", "loss")


def use_pieces(base: Any, pieces: Pieces) -> None:
    """Let a base model be computed by these pieces from now on."""
    setattr(base, _ATTRIBUTE, pieces)
