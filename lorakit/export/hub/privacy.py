"""What may be private in files that are about to be sent: it is said, and left to the sender."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from lorakit.errors import RunError
from lorakit.export.hub.parcel import MODELFILE, Parcel
from lorakit.export.placing import PROOF_FILE
from lorakit.incoming import read_whole
from lorakit.model_config.adapters.record import RECORD_FILE
from lorakit.outgoing import holds_secret
from lorakit.runs import CARD_FILE

_SETTINGS = ("adapter_config.json", "config.json", "tokenizer_config.json", RECORD_FILE, PROOF_FILE)
_TEXTS = (CARD_FILE, MODELFILE)
_MOST_BYTES = 10_000_000
_PATH = r"(?:/|~[\w.-]*/|[A-Za-z]:[\\/])"
_IS_PATH = re.compile(rf"^(?:{_PATH}|\.\.?[\\/])[^<>\n]+$")
_PATH_IN_TEXT = re.compile(rf"(?:^|(?<=[\s\"'`(=]))(?:{_PATH})[\w.-]+[\\/][^\s\"'`)]+", re.MULTILINE)
_NOT_WRITTEN_BY_PEOPLE = (".safetensors", ".gguf", ".model", "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
_SHOWN = 200  # characters
_GGUF = ".gguf"


def check_no_secret(parcel: Parcel) -> None:
    """Refuse to send an access token, which could be used by whoever reads it from then on.

    Raises:
        RunError: A file of text holds what has the shape of one.
    """
    for file in parcel.files:
        if file.name.endswith(_NOT_WRITTEN_BY_PEOPLE) or file.size > _MOST_BYTES:
            continue
        if holds_secret(_read(parcel, file.name)):
            raise RunError(
                f"{parcel.folder / file.name}: holds what has the shape of an access token, so nothing is sent",
                "take it out of that file, and withdraw the token where it was issued",
            )


def warnings_of(parcel: Parcel) -> Iterator[str]:
    """Say what in the files would tell a reader more than the weights do."""
    names = [file.name for file in parcel.files if file.size <= _MOST_BYTES]
    for name in names:
        text = _read(parcel, name) if name in _SETTINGS + _TEXTS else ""
        found = _paths_in_json(text) if name in _SETTINGS else _PATH_IN_TEXT.findall(text)
        for path in dict.fromkeys(found):
            yield f"{name} names a path of this machine: {_shortened(path)}"
    yield from _prompt_warning(parcel, names)
    if any(file.name.endswith(_GGUF) for file in parcel.files):
        yield "a *.gguf file carries notes of its own, which are not looked into here"


def _prompt_warning(parcel: Parcel, names: list[str]) -> Iterator[str]:
    record = _as_json(_read(parcel, RECORD_FILE)) if RECORD_FILE in names else None
    prompt = record.get("system_prompt") if isinstance(record, dict) else None
    if isinstance(prompt, str) and prompt:
        holders = [name for name in (RECORD_FILE, CARD_FILE, MODELFILE) if name in names]
        yield f"{' and '.join(holders)} may hold the system prompt: {_shortened(repr(prompt))}"


def _read(parcel: Parcel, name: str) -> str:
    return read_whole(parcel.folder / name, _MOST_BYTES).decode("utf-8", "replace")


def _as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _paths_in_json(text: str) -> Iterator[str]:
    content = _as_json(text)
    if content is None:
        yield from _PATH_IN_TEXT.findall(text)
        return
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str) and _IS_PATH.match(item):
            yield item


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
