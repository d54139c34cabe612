"""What computes answers: the engine's decoder where it covers the model, else transformers' ``generate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorakit.config import Config
from lorakit.inference.weights.int8_verdict import read_verdict, verdict_key
from lorakit.inference.weights.stored_weights import stored_weights
from lorakit.model_config import AdapterChoice, ModelBundle

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        return f"{'lorakit' if self.decoder else 'transformers'} ({self.reason})"


class Decoders:
    """The engine's decoders of one loaded model, each made when it is first wanted.

    Args:
        bundle: The model, whatever adapters it has or will have.
        config: Whether C++ is wanted at all.
    """

    def __init__(self, bundle: ModelBundle, config: Config) -> None:
        from lorakit.engine import decoder_fault

        self._model = bundle.model
        self._source = bundle.source
        self._fault = decoder_fault(bundle.model) if config.cpu_kernels else "as set in cpu_kernels"
        self._made: dict[str, Decoder] = {}
        self._keys: dict[tuple[AdapterChoice, ...], str] = {}

    def reading(self, weights: str, reason: str) -> DecodeChoice:
        """Return the one that reads the base weights as they are held (``same``), or in 8 or 4 bits.

        Args:
            weights: same, int8 or int4.
            reason: Why.
        """
        from lorakit.engine import PACKINGS, Decoder

        if self._fault:
            return DecodeChoice(None, self._fault)
        if weights not in self._made:
            hold = PACKINGS[weights] or stored_weights(self._model, self._source)
            self._made[weights] = Decoder(self._model, hold)
        return DecodeChoice(self._made[weights], reason)

    def chosen(self, wanted: str, adapters: Sequence[AdapterChoice]) -> DecodeChoice:
        """Return the one that ``decode_weights`` asks for.

        Args:
            wanted: The setting.
            adapters: In use, with their weights.
        """
        if wanted == "same":
            return self.reading(wanted, "weights as the model holds them")
        if wanted != "auto":
            return self.reading(wanted, f"weights packed into {wanted}, as set in decode_weights")
        verdict = None if self._fault else read_verdict(self._key(tuple(adapters)))
        if verdict is None:
            return self.reading("same", "weights as the model holds them; int8 is not tried yet: --task evaluate does")
        if verdict.is_same:
            return self.reading("int8", f"weights packed into int8: {verdict}")
        return self.reading("same", f"weights as the model holds them; with int8 {verdict}")

    def _key(self, adapters: tuple[AdapterChoice, ...]) -> str:
        if adapters not in self._keys:
            self._keys[adapters] = verdict_key(self._source, adapters)
        return self._keys[adapters]
