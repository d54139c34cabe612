"""What computes answers: the engine's decoder where it covers the model, else transformers' ``generate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorakit.config import Config

if TYPE_CHECKING:
    from lorakit.engine import Decoder


@dataclass(frozen=True)
class DecodeChoice:
    """What computes the answers of a model, and why.

    Attributes:
        decoder: None for transformers' ``generate``.
        reason: Why.
    """

    decoder: Decoder | None
    reason: str

    def __str__(self) -> str:
        return f"{'C++' if self.decoder else 'transformers'} ({self.reason})"


def choose_decoding(model: Any, config: Config) -> DecodeChoice:
    """Choose once for a loaded model, whatever adapters it has or will have.

    Args:
        model: With or without PEFT's wrapper.
        config: The settings.
    """
    from lorakit.engine import Decoder, decoder_fault

    if not config.cpu_kernels:
        return DecodeChoice(None, "as set in cpu_kernels")
    if fault := decoder_fault(model):
        return DecodeChoice(None, fault)
    return DecodeChoice(Decoder(model), "weights as the model holds them")
