"""Before a model is trained or asked: shows which of the engine's ways compute what the model's own code computes."""

from lorakit.agreement.adaptable import (
    adaptable_layers,
    adaptable_targets,
    expert_weights,
    has_other_parts,
    language_layers,
)
from lorakit.agreement.kept import agreement_of
from lorakit.agreement.proving import Agreement, prove
from lorakit.agreement.twins import use_packed_attention

__all__ = [
    "Agreement",
    "adaptable_layers",
    "adaptable_targets",
    "agreement_of",
    "expert_weights",
    "has_other_parts",
    "language_layers",
    "prove",
    "use_packed_attention",
]
