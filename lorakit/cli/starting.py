"""``lorakit init``: a configuration and the sample rows in this folder, to begin with."""

from __future__ import annotations

from pathlib import Path

from lorakit import console
from lorakit.cli.arguments import Arguments
from lorakit.config import load_config
from lorakit.config.editing import with_values
from lorakit.errors import SettingsError
from lorakit.invocation import command

_BROUGHT = Path(__file__).parents[1] / "sample"  # in an installed package, by setup.py
_CHECKOUT = Path(__file__).parents[2]
_CONFIG = "config.yaml"
_ROWS = ("data/train.json", "data/validation.json")
_FOR_THE_SAMPLE = ("lora_r", "lora_alpha", "learning_rate", "per_device_train_batch_size")  # other rows: the defaults
_WITH_ROWS_OF_ONES_OWN = {"validation_file": None, "validation_share": 0.1}


def run(arguments: Arguments) -> int:
    """Write config.yaml, with the flags that were given, and the sample rows where no other rows are named.

    Raises:
        SettingsError: One of the files is there already, or a flag's value is none; nothing is written.
    """
    config = load_config(None, arguments.flags, arguments.assignments)
    given = {name: value for name, value in config.model_dump().items() if name in config.model_fields_set}
    if "train_file" in given:
        given = {name: getattr(config, name) for name in _FOR_THE_SAMPLE} | given
        if not {"validation_file", "validation_share"} & given.keys():
            given |= _WITH_ROWS_OF_ONES_OWN
    text = _source(_CONFIG).read_text(encoding="utf-8")
    wanted = {Path(_CONFIG): with_values(text, given)}
    if "train_file" not in given:
        wanted |= {Path(name): _source(name).read_text(encoding="utf-8") for name in _ROWS}
    if there := [str(file) for file in wanted if file.exists() or file.is_symlink()]:
        raise SettingsError(
            f"init: {', '.join(there)} {'is' if len(there) == 1 else 'are'} here already, and nothing was written",
            f"begin in an empty folder, or go on with what is here: {command('preview')}",
        )
    for file, content in wanted.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "x", encoding="utf-8", newline="\n") as new:
            new.write(content)
    console.note(f"written: {', '.join(map(str, wanted))}")
    console.suggest("look at the rows", command("preview"))
    console.suggest("then train", command("train"))
    return 0


def _source(name: str) -> Path:
    brought = _BROUGHT / name
    return brought if brought.is_file() else _CHECKOUT / name
