"""The contract of an adapter: what it was trained with, kept beside its weights in ``lorakit.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lorakit import __version__
from lorakit.errors import AdapterError
from lorakit.incoming import fault_of_file, is_missing, leads_out, read_whole

RECORD_FILE = "lorakit.json"
MASK_RULE = "answers and their end-of-turn token are trained, prompts and pictures are not"


@dataclass(frozen=True)
class AdapterRecord:
    """What an adapter was trained on and how. Evaluation and inference hold themselves to it.

    Attributes:
        base_model: The base as its user named it.
        base_fingerprint: Of the base's weights.
        template_hash: SHA-256 of the chat template and the special tokens.
        end_of_turn: The token that ends an answer.
        system_prompt: The one set in the settings, if any.
        thinking: Whether the training answers reason first.
        base_revision: Of the base on its hub, where it came from one.
        config_fingerprint: Of what matters in the base's config.json; None in records of older versions.
        rendering: A short conversation as the template writes it, so that a difference can be shown.
        examples: More conversations as the template writes them.
        stop_tokens: All at which an answer ends.
        mask_rule: Which tokens were trained.
        pixels: Least and most of a picture; None for a model that takes text only.
        quantization: Of the base weights: 4bit, 8bit, or None.
        template_date: Which the chat template wrote; None where it writes none.
        allowed_tokens: Control tokens that answers may hold.
        lorakit_version: Which wrote the adapter.
    """

    base_model: str
    base_fingerprint: str
    template_hash: str
    end_of_turn: str
    system_prompt: str | None
    thinking: bool
    base_revision: str | None = None
    config_fingerprint: str | None = None
    rendering: str | None = None
    examples: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    mask_rule: str = MASK_RULE
    pixels: tuple[int, int] | None = None
    quantization: str | None = None
    template_date: str | None = None
    allowed_tokens: tuple[str, ...] = ()
    lorakit_version: str = __version__


def read_record(folder: Path) -> AdapterRecord | None:
    """Read what lorakit wrote beside an adapter; None for an adapter made elsewhere.

    Raises:
        AdapterError: The file is damaged.
    """
    file = folder / RECORD_FILE
    fault = fault_of_file(str(file))
    if fault is not None and is_missing(fault):
        return None
    if fault is None and leads_out(file):
        fault = "is a link that leads out of the folder"
    if fault is not None:
        raise AdapterError(f"{file}: {fault}", "copy the adapter's folder again, with files of its own")
    try:
        return TypeAdapter(AdapterRecord).validate_json(read_whole(file), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise AdapterError(f"{file}: is damaged ({reason})", "train the adapter again, or remove that file") from error
    except OSError as error:
        raise AdapterError(f"{file}: cannot be read ({error.strerror})", "check the file's permissions") from error
