"""The command line, made from the settings: flags, help and what argv says."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from typing import Any, NoReturn

from lorakit import __version__
from lorakit.config.listing import Setting, settings, shown_value
from lorakit.errors import SettingsError
from lorakit.invocation import program
from lorakit.language import translated
from lorakit.language.wrapping import filled, wrapped

TASKS = {
    "train": "fine-tune an adapter on train_file, then compare it with the base model",
    "evaluate": "measure loss and answers on validation_file, base and tuned side by side",
    "inference": "ask questions in the terminal, or through a pipe",
    "plan": "run the longest micro-batch once, and say what a training will take: memory, time, what to change",
    "advise": "find a good learning rate by a few short runs on your rows, at a fraction of a training",
    "merge": "compute an adapter, or several, into a full model, and prove that it is the same",
    "export": "write an adapter for other tools: GGUF for llama.cpp and Ollama, or PEFT in another shape",
    "push": "send an adapter, or what was merged or exported, to a hub; shows what, and asks first",
    "preview": "show what the model will see: tokens, which of them are trained, and counts",
    "init": "write config.yaml and the sample rows into this folder, to begin with",
    "doctor": "show what this machine has and can do, and what would make lorakit faster",
}


_LINK = re.compile(r"\[([^\]]+)\]\(https?:[^)]*\)")  # of documentation; a terminal shows its words
_TASK_COLUMNS = 13  # before what is said of a task


@dataclass(frozen=True)
class Arguments:
    """What argv asked for, values still as text: the configuration reads and judges them."""

    task: str
    config_file: str
    flags: dict[str, str]
    assignments: list[str]


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse's help, with its own words in the language of this process, and lines as wide as a terminal's cells."""

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        said = f"{translated('usage:')} " if prefix is None else prefix
        parts = [f"{part} " for part in re.split(r" (?=\[)", usage or "")]
        lines = filled([part % {"prog": self._prog} for part in parts], self._width - len(said))
        super().add_usage(f"\n{' ' * len(said)}".join(lines).replace("%", "%%"), actions, groups, said)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(_LINK.sub(r"\1", " ".join(text.split())), width)

    def start_section(self, heading: str | None) -> None:
        super().start_section(translated(heading) if heading else heading)


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are SettingsError, as all other faults of settings are."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"command line: {message}", f"{shlex.join(program())} --help lists every flag")


def parse_arguments(argv: list[str]) -> Arguments:
    """Split argv into task, configuration file, flags and assignments.

    Raises:
        SettingsError: An unknown flag or task, or a missing value.
    """
    if argv and argv[0] in TASKS:
        argv = ["--task", *argv]
    flagged = [setting for setting in settings() if setting.has_flag]
    known, unknown = _parser(flagged).parse_known_args(argv)
    if unknown:
        raise _unknown(unknown[0].partition("=")[0], [setting.name for setting in flagged])
    values: dict[str, Any] = vars(known)
    flags = {setting.name: _as_text(values[setting.name]) for setting in flagged if values[setting.name] is not None}
    return Arguments(known.task, known.config, flags, known.set)


def _as_text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)  # which is YAML as well


def _unknown(flag: str, flagged: list[str]) -> SettingsError:
    name = flag.lstrip("-").replace("-", "_")
    close = difflib.get_close_matches(name, [*flagged, "task", "config", "set"], n=1, cutoff=0.6)
    if name in {setting.name for setting in settings()} - set(flagged):
        hint = f"this setting has no flag of its own: --set {name}=VALUE"
    elif close:
        hint = f"did you mean --{close[0]}?"
    else:
        hint = f"{shlex.join(program())} --help lists every flag; any other setting: --set key=value"
    return SettingsError(f"command line: {flag} is not a flag", hint)


def _parser(flagged: list[Setting]) -> argparse.ArgumentParser:
    room = shutil.get_terminal_size().columns - _TASK_COLUMNS
    tasks = "\n".join(
        f"  {name:<10} " + f"\n{' ' * _TASK_COLUMNS}".join(wrapped(translated(help_text), max(room, 20)))
        for name, help_text in TASKS.items()
    )
    parser = _Parser(
        prog=shlex.join(program()),
        usage=translated("%(prog)s --task TASK [--flag VALUE ...] [--set KEY=VALUE ...]"),
        description=translated("lorakit: fine-tune, evaluate and chat with a LoRA adapter.\n\ntasks:\n") + tasks,
        epilog=translated("Every setting, its default and bounds: docs/settings.md"),
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help=translated("show this help message and exit"))
    parser.add_argument("--task", required=True, choices=list(TASKS), metavar="TASK", help=translated("what to do"))
    parser.add_argument(
        "--config", default="config.yaml", metavar="FILE", help=translated("settings in YAML (config.yaml)")
    )
    for setting in flagged:
        is_switch = setting.type_text == "true or false"
        extra: dict[str, Any] = {"nargs": "?", "const": "true"} if is_switch else {}
        if setting.type_text.startswith("path or list of") or setting.type_text == "path, list of paths or null":
            extra = {"action": "extend", "nargs": "+"}
        default = translated(f"default: {shown_value(setting.default)}")
        kind = translated(setting.type_text)
        help_text = f"{translated(setting.description)} ({kind}; {default})".replace("%", "%%")
        parser.add_argument(f"--{setting.name}", metavar="VALUE", help=help_text, **extra)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=translated("any other setting, the value read as YAML: --set 'target_modules=[q_proj,v_proj]'"),
    )
    parser.add_argument(
        "--version", action="version", help=translated("show the version and exit"), version=f"lorakit {__version__}"
    )
    return parser
