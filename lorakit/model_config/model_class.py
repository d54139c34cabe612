"""Which class of transformers a model is read as: the whole of it, or none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lorakit.errors import ModelError
from lorakit.model_config.trust import read_settings

if TYPE_CHECKING:
    from lorakit.model_config.source import ModelSource

_REMEDY = (
    "choose a causal language model, such as Qwen3, Llama, Mistral or Gemma; docs/families.md lists what was tried"
)
# Names of tensors that files of old carry and no model has weights for: tables that are computed.
_COMPUTED = ("inv_freq", ".attn.bias", ".masked_bias", ".attention.bias", "position_ids", "embed_positions.weights")


def class_to_read(source: ModelSource) -> Any:
    """Return the class of transformers that has all parts of a model, those for pictures too.

    Raises:
        ModelError: It continues no text: an encoder, one that translates, or of a type that transformers does not know.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    settings = read_settings(source)
    kind = str(settings["model_type"])
    if source.runs_own_code and "auto_map" in settings:
        return AutoModelForCausalLM
    if _is_translator(kind):
        raise ModelError(
            f"{source.name}: a model of type {kind} reads a question by one half and answers by another "
            "(encoder and decoder), which is not trained here",
            _REMEDY,
        )
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForCausalLM
    raise ModelError(
        f"{source.name}: a model of type {kind} does not continue a text, by what transformers knows", _REMEDY
    )


def _is_translator(kind: str) -> bool:
    """Whether models of a type have an encoder unless they say otherwise."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return kind in CONFIG_MAPPING and bool(getattr(CONFIG_MAPPING[kind], "is_encoder_decoder", False))


def check_is_whole(source: ModelSource, model: Any, unused: Iterable[str]) -> None:
    """Hold what was read to the files: a part that the class has no place for would be missing in what is made of it.

    Raises:
        ModelError: The files hold more.
    """
    parts = sorted(name for name in unused if not name.endswith(_COMPUTED))
    if parts:
        raise ModelError(
            f"{source.name}: its files hold {len(parts)} tensors that {type(model).__name__} has no place for, "
            f"{parts[0]} among them, so it would be loaded in part only",
            "choose a model of which config.json names the type that its weights are of",
        )
