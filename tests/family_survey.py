"""What becomes of every family: trained by the engine, by its own code, or refused; a line for each, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from agreement_models import merging_off, small_model, training_off
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from lorakit.agreement import prove
from lorakit.engine import Pieces, use_pieces
from lorakit.export.gguf.family import FAMILIES as GGUF_FAMILIES

TOLERANCE = 3e-4  # 5,000 roundings of float32, as in the proof
_LARGEST = 130_000_000  # parameters of a small model
_ENGINE = {"attention", "loss", "kept_logits", "layers", "linears"}


@dataclass(frozen=True)
class Line:
    """What was found of a type of model.

    Attributes:
        name: transformers' ``model_type``.
        pieces: What serves it; None where it is refused, or was not tried.
        off: How far loss and gradients are from plain transformers + PEFT, by the matrix that is furthest.
        merged_off: How far the logits of merged weights are from those of the adapter.
        refusal: Why it is refused.
        untried: Why no small model of it could be made here.
    """

    name: str
    pieces: Pieces | None = None
    off: float = 0.0
    merged_off: float | None = None
    refusal: str | None = None
    untried: str | None = None

    @property
    def is_right(self) -> bool:
        """Whether it is trained, and as plain transformers + PEFT would."""
        return self.pieces is not None and self.off <= TOLERANCE

    @property
    def is_wrong(self) -> bool:
        """Whether it would be trained as another model."""
        return self.pieces is not None and not self.is_right

    @property
    def cells(self) -> list[str]:
        """The line of the table."""
        if self.pieces is None:
            return [f"`{self.name}`", "refused", "", "", "", "", "", self.refusal or ""]
        left = _ENGINE.intersection(self.pieces.missing)
        merged = "yes" if self.merged_off is not None and self.merged_off <= TOLERANCE else "no"
        return [
            f"`{self.name}`",
            "by the engine"
            if not left
            else "by its own code"
            if len(left) == len(_ENGINE)
            else "by the engine in part",
            "yes" if self.pieces.packing else "no",
            "together" if self.pieces.together else "one by one",
            merged,
            "yes" if self.name in GGUF_FAMILIES else "no",
            f"{self.off:.0e}",
            "its own: " + ", ".join(sorted(left)) if left else "",
        ]


def model_types() -> list[str]:
    """List the types that transformers has a causal or an image-text class for."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES})


def survey(name: str) -> Line:
    """Find out about a type."""
    try:
        model = small_model(name)
        size = sum(parameter.numel() for parameter in model.parameters())
        if size > _LARGEST:
            raise ValueError(f"its smallest model has {size:,} parameters")
    except Exception as error:
        return Line(name, untried=_first_line(error))
    if getattr(model.config, "is_encoder_decoder", False):
        return Line(name, refusal="has an encoder and a decoder")
    found = prove(model)
    if found.refusal is not None:
        return Line(name, refusal=found.refusal)
    use_pieces(model, found.pieces)
    return Line(name, found.pieces, training_off(small_model(name), found), merging_off(model))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {' '.join(lines)}"[:160]


def page(found: Sequence[Line]) -> str:
    """Write the page."""
    tried = [one for one in found if one.untried is None]
    right, refused = [one for one in tried if one.is_right], [one for one in tried if one.refusal]
    head = ["type", "trained", "packed", "answers", "merged", "GGUF", "off", "what is left or why"]
    rows = [head, ["---"] * len(head), *(one.cells for one in tried)]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return _PAGE.format(
        transformers=version("transformers"),
        tried=len(tried),
        right=len(right),
        wrong=sum(one.is_wrong for one in tried),
        refused=len(refused),
        table=table,
        untried="\n".join(f"- `{one.name}`: {one.untried}" for one in found if one.untried),
    )


_PAGE = """# Families of models

Written by `python scripts/survey_families.py --write` with transformers {transformers}: small random models of all its
causal and image-text classes, {tried} of them. {right} are trained as plain transformers + PEFT would, {refused} are
refused by name before the first step, {wrong} are trained otherwise without a word. The same proof runs on every model
that is loaded ([decision 28](decisions/0028-the-engine-proves-itself-on-every-model.md)), so what counts for a model is
what it finds there, not this page.

- trained: by the engine, or by the model's own code as far as the last column says
- packed: several rows in one pass; else row by row, which takes longer the shorter they are
- answers: several questions together, or one by one, where the family does not mask padding
- merged: weights with the adapter computed into them give the adapter's logits
- GGUF: `--task export --format gguf` writes it
- off: how far the furthest of loss and gradients is from plain transformers + PEFT in float32, one row at a time, as a
  part of its size; {tried} small models say nothing of what training them is good for

{table}

## Not tried

No small model of these could be made here; the proof runs on them all the same.

{untried}
"""
