"""What a result belongs to: settings, versions, machine, and the commands that make it again."""

from __future__ import annotations

import os
import platform
import re
import shlex
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lorakit import __version__
from lorakit.incoming import fault_of_file, leads_out, read_whole
from lorakit.invocation import program
from lorakit.language import translated
from lorakit.report.content import Report
from lorakit.report.markup import Markup, element, folded, note, section, table
from lorakit.runs import ADAPTER_FOLDER, USED_CONFIG_FILE

_PACKAGES = ("torch", "transformers", "peft")
_PROCESSOR_FILE = Path("/proc/cpuinfo")
# A report is passed on more readily than a configuration: no tokens of hubs and trackers in it.
_SECRET = re.compile(
    r"(?im)(?<!\w)(\w{0,100}(?:_token|password|secret|api_key)['\"]?\s*:\s*)(?!null\b|None\b)[^\s,}][^,}\n]*"
)
_MOST_BYTES = 1_000_000  # of a configuration, as when it is read for a task


def reproduction(report: Report) -> Markup:
    """Show the commands and the configuration that make this result again."""
    used = _used_configuration(report)
    parts: list[str] = []
    if used is not None:
        parts.append(element("pre", "\n".join(commands(used.parent)), tabindex="0"))
        text = without_secrets(read_whole(used, _MOST_BYTES).decode("utf-8", "replace"))
        parts.append(folded(f"{USED_CONFIG_FILE}, of the training", element("pre", text, tabindex="0")))
    if used is None or report.task != "train":
        text = without_secrets(report.configuration)
        parts.append(folded(f"the settings of this {report.task} task", element("pre", text, tabindex="0")))
    return section("To do it again", *parts)


def commands(run_folder: Path) -> list[str]:
    """Return the command lines for training, evaluation and inference with a run's own configuration."""
    started = ["lorakit"] if program() == ["lorakit"] else ["python", "main.py"]  # without a path of this machine
    beginning = [*started, "--config", (run_folder / USED_CONFIG_FILE).as_posix()]
    adapter = ["--lora_model_path", (run_folder / ADAPTER_FOLDER).as_posix()]
    return [
        shlex.join([*beginning, "--task", "train"]),
        shlex.join([*beginning, "--task", "evaluate", *adapter]),
        shlex.join([*beginning, "--task", "inference", *adapter]),
    ]


def versions_and_machine(task: str) -> Markup:
    """Show what this task ran on."""
    rows = versions()
    rows += [("system", f"{platform.system()} {platform.machine()}"), ("processor", processor_name())]
    rows += [("cores", str(os.cpu_count())), ("memory", _memory()), ("GPU", _gpu())]
    return section(
        "Versions and machine",
        note(f"Those with which the {task} task ran that wrote this page."),
        table(["", ""], [(translated(name), translated(value)) for name, value in rows]),
    )


def versions() -> list[tuple[str, str]]:
    """Return what ran, with its versions."""
    return [
        ("Python", platform.python_version()),
        ("lorakit", __version__),
        *((name, _version(name)) for name in _PACKAGES),
    ]


def processor_name() -> str:
    """Return the name that the processor gives itself."""
    if _PROCESSOR_FILE.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", _PROCESSOR_FILE.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _used_configuration(report: Report) -> Path | None:
    if not report.run_folder:
        return None
    file = report.run_folder / USED_CONFIG_FILE
    is_readable = fault_of_file(str(file)) is None and not leads_out(file)
    return file if is_readable and file.stat().st_size <= _MOST_BYTES else None


def without_secrets(text: str) -> str:
    """Blank out the values of settings that are named like a secret."""
    return _SECRET.sub(r"\1***", text)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    import psutil

    return f"{psutil.virtual_memory().total / 1e9:.1f} GB"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "Apple's (MPS)" if torch.backends.mps.is_available() else "none"
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{found.name}, {found.total_memory / 1e9:.1f} GB" for found in properties)
