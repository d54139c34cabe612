"""A model is data: its weights are never unpickled, and code that lies beside them runs only where it is asked for."""

from __future__ import annotations

from typing import Any

from lorakit import console
from lorakit.engine import is_out_of_memory
from lorakit.errors import ModelError
from lorakit.incoming import read_json
from lorakit.model_config.source import ModelSource

_QUANTIZED = ("bitsandbytes", "gptq", "awq", "compressed-tensors", "mxfp4", "fp8")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_weight_files(source: ModelSource) -> None:
    """Hold a model to safetensors.

    Raises:
        ModelError: It has no such file; where it has pickles, these are named and left alone.
    """
    folder = source.folder
    _check_list_of_weights(source)
    if any(folder.glob("*.safetensors")):
        return
    pickles = [file.name for pattern in _PICKLES for file in sorted(folder.glob(pattern))]
    if not pickles:
        raise ModelError(
            f"{source.name}: the model cannot be loaded, as there is no *.safetensors in {folder}",
            "fetch the model again; one that its maker gives as a pickle only (pytorch_model.bin) has to be "
            "converted first, where you trust it: load and save it with transformers",
        )
    raise ModelError(
        f"{source.name}: its weights are a pickle ({pickles[0]}), which can run code when it is loaded",
        "take a version with *.safetensors, or convert it where you trust it: load and save it with transformers "
        "(AutoModelForCausalLM.from_pretrained, then save_pretrained)",
    )


def _check_list_of_weights(source: ModelSource) -> None:
    file = source.folder / "model.safetensors.index.json"
    if not file.is_file() or (source.folder / "model.safetensors").is_file():
        return
    try:
        listed = read_json(file)["weight_map"]
        names = {name for name in listed.values() if isinstance(name, str)}
        if not all(name.endswith(".safetensors") for name in names):
            raise TypeError("it names other files than safetensors, which may be pickles")
        if not listed or len(names) < len({str(name) for name in listed.values()}):
            raise TypeError("it names no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{source.name}: the model cannot be loaded: its list of weights ({file.name}) is damaged "
            f"({first_line(error)[:200]})",
            "fetch the model again",
        ) from error
    missing = sorted(name for name in names if not (source.folder / name).is_file())
    if missing:
        raise ModelError(
            f"{source.name}: the model cannot be loaded: {missing[0]} is missing, which {file.name} names",
            "the download is not complete: fetch the model again",
        )


def check_own_code(source: ModelSource) -> None:
    """Say what becomes of the code that a model brings along.

    Raises:
        ModelError: The model needs it, and ``trust_remote_code`` is not set.
    """
    from transformers import CONFIG_MAPPING

    settings = read_settings(source)
    for part in (settings, *(value for value in settings.values() if isinstance(value, dict))):
        _check_quantization(source, part.get("quantization_config"))
    if source.runs_own_code or not _brings_code(settings):
        return
    if settings["model_type"] not in CONFIG_MAPPING or "auto_map" not in settings:
        raise needs_own_code(source)
    console.note(f"{source.name}: brings its own code, which is not run; the classes of transformers take its place")


def _check_quantization(source: ModelSource, how: Any) -> None:
    """Refuse weights in fewer bits whose code transformers would fetch from the Hub, or whose tensors are pickles."""
    method = how.get("quant_method") if isinstance(how, dict) else how
    if how is not None and method not in _QUANTIZED:
        raise ModelError(
            f"{source.name}: its weights are in fewer bits by {str(method)[:80]!r}, which lorakit does not load "
            f"(known: {', '.join(_QUANTIZED)})",
            "take the model as it was before, and set load_in_8bit or load_in_4bit",
        )


def needs_own_code(source: ModelSource) -> ModelError:
    """Return the error of a model that does not work without the code that it brings."""
    return ModelError(
        f"{source.name}: brings its own code, named in its configuration, which lorakit does not run",
        "choose a model that transformers knows by itself; or read that code, and where you trust it "
        "set trust_remote_code: true",
    )


def _brings_code(settings: dict[str, Any]) -> bool:
    return "auto_map" in settings or _names_kernels(settings)


def _names_kernels(settings: Any) -> bool:
    """Tell whether an implementation is named owner/name: it would be fetched from the Hub, as compiled code."""
    if isinstance(settings, list):
        return any(map(_names_kernels, settings))
    if not isinstance(settings, dict):
        return False
    named = (value for name, value in settings.items() if name.endswith("_implementation"))
    return any("/" in str(value) for value in named) or any(map(_names_kernels, settings.values()))


def read_settings(source: ModelSource) -> dict[str, Any]:
    """Read a model's config.json.

    Raises:
        ModelError: It is damaged.
    """
    try:
        settings = read_json(source.folder / "config.json")
        if not isinstance(settings["model_type"], str):
            raise TypeError("model_type is not text")
        if not isinstance(settings.get("text_config", {}), dict):
            raise TypeError("text_config is not an object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "model_type is missing" if isinstance(error, KeyError) else first_line(error)
        raise ModelError(f"{source.name}: its config.json is damaged ({reason})", "fetch the model again") from error
    return settings  # type: ignore[no-any-return]


def is_fault(error: BaseException) -> bool:
    """Tell a fault of a file from an interrupt and from a lack of memory; a panic of Rust is no Exception."""
    return not is_out_of_memory(error) and (isinstance(error, Exception) or type(error).__name__ == "PanicException")


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says, with the next where it only announces that, or else its kind."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    if not text:
        return type(error).__name__
    first, *others = (line.strip() for line in text.splitlines())
    return f"{first} {others[0]}" if first.endswith(":") and others else first
