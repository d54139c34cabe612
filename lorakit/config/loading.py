"""config.yaml, flags and ``--set`` become one `Config`, or one message with every fault in it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lorakit.config.listing import BOUNDS, has_several_kinds, number_text, type_text
from lorakit.config.settings import Config
from lorakit.config.trainer_arguments import check_trainer_arguments
from lorakit.config.yaml_values import read_mapping, read_value
from lorakit.errors import SettingsError
from lorakit.incoming import fault_of_file, has_half_character, read_whole
from lorakit.invocation import command
from lorakit.outgoing import holds_secret

_MOST_BYTES = 1_000_000  # of a file of settings
_SECRET_FOUND = (
    "a value has the shape of an access token or a password, which would be written into files",
    "take it out, and log in instead: `hf auth login`, or the variable HF_TOKEN",
)
_HALF_FOUND = (
    "a value holds half a character, or bytes that are not UTF-8, which no file could keep",
    "write the whole character",
)
_MOST_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the settings: where, what, and how to mend it."""

    place: str
    fault: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.fault}\n  hint: {self.remedy}"


@dataclass(frozen=True)
class Given:
    """A value somebody wrote, and where it was written."""

    value: Any
    place: str


_VERBATIM = frozenset({"question"})  # on the command line these are what stands there, not YAML


def load_config(config_file: str | None, flags: dict[str, str], assignments: list[str]) -> Config:
    """Build the configuration of a run.

    Args:
        config_file: The YAML file; None leaves every setting at its default.
        flags: Setting name to the text given to its flag.
        assignments: The ``key=value`` texts given to ``--set``; they win over flags, flags over the file.

    Returns:
        The validated configuration.

    Raises:
        SettingsError: Naming every fault at once, each with place and remedy.
    """
    faults: list[Fault] = []
    given: dict[str, Given] = _from_file(config_file, faults) if config_file else {}
    for name, text in flags.items():
        if name in _VERBATIM:
            given[name] = Given(text, f"--{name}")
            continue
        _read_into(given, name, text, f"--{name}", faults)
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator or not name.strip():
            faults.append(Fault(f"--set {assignment}", "is not key=value", "write --set lora_r=16"))
            continue
        _read_into(given, name.strip(), text, f"--set {name.strip()}", faults)
    return _checked(given, faults)


def make_config(values: dict[str, Any], place: str) -> Config:
    """Build a configuration from values of Python.

    Args:
        values: By the names of the settings.
        place: Named in errors.

    Raises:
        SettingsError: Naming every fault at once.
    """
    return _checked({name: Given(value, place) for name, value in values.items()}, [])


def _checked(given: dict[str, Given], faults: list[Fault]) -> Config:
    config = _validate(given, faults)
    for is_wrong, found in ((holds_secret, _SECRET_FOUND), (has_half_character, _HALF_FOUND)):
        faults += [Fault(item.place, *found) for item in given.values() if _holds(item.value, is_wrong)]
    if faults or config is None:
        raise SettingsError("\n".join(str(fault) for fault in faults))
    return config


def _from_file(config_file: str, faults: list[Fault]) -> dict[str, Given]:
    if (fault := _fault_of_config_file(config_file)) is not None:
        faults.append(
            Fault(config_file, fault, f"name a file of settings with --config, or begin with one: {command('init')}")
        )
        return {}
    try:
        mapping = read_mapping(read_whole(Path(config_file), _MOST_BYTES).decode("utf-8-sig"))
    except OSError as error:
        faults.append(Fault(config_file, f"cannot be read ({error.strerror})", "name a readable file with --config"))
    except UnicodeDecodeError:
        faults.append(Fault(config_file, "is not UTF-8 text", "save it as UTF-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        faults.append(_yaml_fault(config_file, error))
    else:
        for duplicate in mapping.duplicates:
            place = f"{config_file} line {duplicate.line}"
            faults.append(Fault(place, str(duplicate.problem), "keep one of the two"))
        return {
            name: Given(value, f"{config_file} line {mapping.lines.get(name, 1)}")
            for name, value in mapping.values.items()
        }
    return {}


def _fault_of_config_file(name: str) -> str | None:
    fault = fault_of_file(name)
    if fault is None and Path(name).stat().st_size > _MOST_BYTES:
        return f"has more than {_MOST_BYTES} bytes, far too many for settings"
    return fault


def _yaml_fault(place: str, error: Exception) -> Fault:
    mark = getattr(error, "problem_mark", None)
    if mark is not None and place.endswith((".yaml", ".yml")):
        place = f"{place} line {mark.line + 1}"
    if isinstance(error, RecursionError):
        return Fault(place, "is nested too deeply", "write one `setting: value` a line")
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return Fault(place, f"is not readable as YAML: {problem}", "write one `setting: value` a line")


def _read_into(given: dict[str, Given], name: str, text: str, place: str, faults: list[Fault]) -> None:
    try:
        value = read_value(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        faults.append(_yaml_fault(place, error))
        return
    before = given.get(name)
    if name == "trainer_args" and isinstance(value, dict) and before and isinstance(before.value, dict):
        value = {**before.value, **value}  # one more argument must not lose those of the file
    given[name] = Given(value, place)


def _validate(given: dict[str, Given], faults: list[Fault]) -> Config | None:
    config = None
    if (share := given.get("validation_share")) is not None and share.value is not None:
        file = given.setdefault("validation_file", Given(None, share.place))
        if file.value is not None:
            faults.append(Fault(share.place, "validation_share and validation_file are both set", "keep one of them"))
    try:
        config = Config(**{name: item.value for name, item in given.items()})
    except ValidationError as error:
        details: dict[str, list[ErrorDetails]] = {}
        for detail in error.errors(include_url=False):
            details.setdefault(str(detail["loc"][0]), []).append(detail)
        faults += [_settings_fault(name, given[name], found) for name, found in details.items()]
    trainer_args = given.get("trainer_args")
    if trainer_args and isinstance(trainer_args.value, dict):
        for name, fault, remedy in check_trainer_arguments(trainer_args.value):
            faults.append(Fault(trainer_args.place, f"trainer_args: {name} {fault}", remedy))
    return config


def _holds(value: Any, is_wrong: Callable[[str], bool]) -> bool:
    if isinstance(value, dict):
        return any(_holds(part, is_wrong) for part in (*value.keys(), *value.values()))
    if isinstance(value, list | tuple):
        return any(_holds(part, is_wrong) for part in value)
    return isinstance(value, str) and is_wrong(value)


def _settings_fault(name: str, item: Given, details: list[ErrorDetails]) -> Fault:
    if details[0]["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, Config.model_fields, n=1, cutoff=0.6)
        remedy = f"did you mean {close[0]}?" if close else "docs/settings.md lists every setting"
        return Fault(item.place, f"{name} is not a setting", remedy)
    field = Config.model_fields[name]
    wanted = _wanted(name, details)
    default = "null" if field.default is None else field.default
    remedy = f"such as {name}: {field.examples[0]}" if field.examples else f"the default is {default}"
    return Fault(item.place, f"{name} {wanted} (found: {_shown(item.value)})", remedy)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python's own limit on the digits of a whole number
        return "a number of thousands of digits"
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


_WANTED = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
}


_BOUND_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}


def _wanted(name: str, details: list[ErrorDetails]) -> str:
    detail = next((one for one in details if one["type"] in _BOUND_ERRORS), details[0])
    # Of several kinds of values each says what it wants.
    if len(details) > 1 and detail["type"] not in _BOUND_ERRORS and has_several_kinds(Config.model_fields[name]):
        return f"must be {type_text(Config.model_fields[name])}"
    if isinstance(detail["loc"][-1], int):  # one of a list
        return f"must be a {type_text(Config.model_fields[name])}"
    context = detail.get("ctx", {})
    for bound, words in BOUNDS.items():
        if bound in context:
            return f"must be {words} {number_text(context[bound])}"
    template = _WANTED.get(detail["type"])
    return template.format(**context) if template else detail["msg"]


def as_yaml(config: Config) -> str:
    """Return the settings of a task as YAML, for another one to start with."""
    used = config.model_copy(update={"resume": False})
    return yaml.safe_dump(used.model_dump(), allow_unicode=True, sort_keys=False)
