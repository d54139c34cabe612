"""What an adapter's ``adapter_config.json`` may say: the settings that change what LoRA computes, and no others.

The file comes from anybody. PEFT would import modules that it names, read files and fetch models, and reserve whatever
it asks for; so only the fields below reach PEFT, each checked, and never what it takes from elsewhere.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lorakit import console
from lorakit.errors import AdapterError
from lorakit.incoming import fault_of_file, read_json
from lorakit.model_config.adapters.layer_names import PatternError, plain_pattern, resolved_patterns

SETTINGS_FILE = "adapter_config.json"
_MOST_BYTES = 10_000_000  # of a file of settings: a name for each of many layers, and more
_LARGEST = 1_000_000  # of a number, whatever it scales
_AGAIN = "copy the adapter's folder again"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_list_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_by_name(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def _is_rank(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_any(*kinds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(kind(value) for kind in kinds)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w.-]{1,300}", value) is not None  # PEFT builds patterns of some


_NAMES = _is_list_of(_is_name)
_WHOLES = _is_list_of(_is_whole)
# What reaches PEFT: the field, what it must be, and in words.
_TAKEN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, "a whole number above 0"),
    "lora_alpha": (_is_number, "a number up to a million"),
    "lora_dropout": (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "target_modules": (_is_any(_is_text, _NAMES), "text or a list of names"),
    "exclude_modules": (_is_any(_is_text, _NAMES), "text or a list of names"),
    "target_parameters": (_NAMES, "a list of names"),
    "modules_to_save": (_NAMES, "a list of names"),
    "layers_to_transform": (_is_any(_is_whole, _WHOLES), "a number or a list of numbers"),
    "layers_pattern": (_is_any(_is_name, _NAMES), "a name or a list of names"),
    "rank_pattern": (_is_by_name(_is_rank), "a rank for each name"),
    "alpha_pattern": (_is_by_name(_is_number), "a number up to a million for each name"),
    "trainable_token_indices": (_is_any(_WHOLES, _is_by_name(_WHOLES)), "a list of numbers"),
    "fan_in_fan_out": (_is_switch, "true or false"),
    "use_rslora": (_is_switch, "true or false"),
    "use_dora": (_is_switch, "true or false"),
    "lora_bias": (_is_switch, "true or false"),
    "ensure_weight_tying": (_is_switch, "true or false"),
}
# What says how it was made, or means nothing once the tensors are there.
_WITHOUT_EFFECT = frozenset(
    {
        *("task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "bias"),
        *("inference_mode", "runtime_config", "init_lora_weights", "loftq_config", "eva_config"),
        *("qalora_group_size", "megatron_core"),
    }
)
# Ways to begin that leave the base as it is; any other one changes its weights before the adapter is put on it.
_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")


def read_settings_file(folder: Path) -> dict[str, Any]:
    """Read an adapter's settings as they stand there.

    Raises:
        AdapterError: The file is damaged, or the adapter is of another kind.
    """
    file = folder / SETTINGS_FILE
    fault = fault_of_file(str(file))
    if fault is not None:
        raise AdapterError(f"{file}: {fault}", _AGAIN)
    try:
        settings = read_json(file, _MOST_BYTES)
        kind = settings["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "peft_type is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise AdapterError(f"{file}: is damaged ({reason})", _AGAIN) from error
    if settings.get("bias", "none") != "none":
        raise AdapterError(
            f"{folder}: has trained biases of its base (bias: {settings['bias']}), which would stay changed without it",
            "train it again with bias: none",
        )
    if kind != "LORA":
        raise AdapterError(f"{folder}: is a {kind} adapter, not LoRA", "choose a LoRA adapter")
    return settings  # type: ignore[no-any-return]


def lora_config(settings: dict[str, Any], folder: Path, layers: Iterable[str]) -> Any:
    """Make PEFT's configuration of what an adapter's settings say.

    Args:
        settings: See `read_settings_file`.
        folder: Of the adapter, named in errors.
        layers: The names of all modules of the base: patterns are tried on these, and replaced by what they chose.

    Returns:
        A ``peft.LoraConfig`` that names no file, no module and no other model.

    Raises:
        AdapterError: A field is not what it should be, or has more to it than LoRA.
    """
    from peft import LoraConfig

    taken = check_fields(settings, folder)
    names = list(layers)
    try:
        for name in ("target_modules", "exclude_modules"):
            if isinstance(taken.get(name), str) and taken[name] != "all-linear":
                taken[name] = plain_pattern(taken[name], names)
        for name in ("rank_pattern", "alpha_pattern"):
            if name in taken:
                taken[name] = resolved_patterns(taken[name], names)
    except PatternError as error:
        raise AdapterError(f"{folder}: {name}: {error}", "name the layers one by one") from error
    try:
        return LoraConfig(task_type="CAUSAL_LM", **taken)
    except (ValueError, TypeError) as error:  # fields that PEFT does not take together
        raise AdapterError(f"{folder}: does not fit: PEFT says {_shown(str(error))}", _AGAIN) from error


def check_fields(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the fields that PEFT is given, each of its type; of them the base need not be known.

    Raises:
        AdapterError: A field is not what it should be, or has more to it than LoRA.
    """
    taken = {name: settings[name] for name in _TAKEN if settings.get(name) is not None}
    for name, value in taken.items():
        fits, words = _TAKEN[name]
        if not fits(value):
            raise AdapterError(f"{folder}: does not fit: its {name} is not {words} (found: {_shown(value)})", _AGAIN)
    _refuse_the_rest(settings, folder)
    return taken


def _refuse_the_rest(settings: dict[str, Any], folder: Path) -> None:
    """Hold everything that does not reach PEFT to be what PEFT would take in its absence."""
    from peft import LoraConfig

    if settings.get("init_lora_weights") not in _BEGINNINGS:
        raise AdapterError(
            f"{folder}: was begun by changing its base (init_lora_weights: {_shown(settings['init_lora_weights'])}), "
            "which stays as it is here",
            "convert it to plain LoRA where it was trained: PEFT's save_pretrained has "
            "path_initial_model_for_weight_conversion",
        )
    known = {field.name: field for field in dataclasses.fields(LoraConfig)}
    more = {
        name: value
        for name, value in settings.items()
        if name not in _TAKEN and name not in _WITHOUT_EFFECT and value not in (None, False, {}, [])
    }
    for name, value in more.items():
        if name in known and value != known[name].default:
            raise AdapterError(
                f"{folder}: sets {_shown(name)} ({_shown(value)}), which lorakit does not take from a file",
                "choose a plain LoRA adapter, or convert it where it was trained",
            )
    unknown = [name for name in more if name not in known]
    if unknown:
        console.warn(f"{folder}: has settings that are unknown here and left out: {_shown(', '.join(unknown))}")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
