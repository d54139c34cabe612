"""Loss, perplexity and answers on held-out rows, base against tuned."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit import console
from lorakit.config import Config, load_config
from lorakit.data_processing import ChatFormat, Dataset, load_training, load_validation
from lorakit.errors import LorakitError, SettingsError
from lorakit.incoming import leads_out
from lorakit.inference import chosen_adapters, open_assistant
from lorakit.invocation import this_command
from lorakit.runs import (
    PREDICTIONS_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    USED_CONFIG_FILE,
    explaining_write_errors,
    keep_foreign,
    writing_alone,
)

if TYPE_CHECKING:
    from lorakit.engine import Ranks

__all__ = ["run"]
_WRITTEN = (PREDICTIONS_FILE, RESULTS_FILE, REPORT_FILE)


def run(config: Config) -> int:
    """Evaluate on ``validation_file``; results go to the terminal, and in files into ``output_dir``."""
    from lorakit.engine import Ranks

    if not config.has_validation:
        raise SettingsError("validation_file: is null, so there is nothing to evaluate", "name a file of rows")
    ranks = Ranks.of_environment()
    if not ranks.is_first:
        console.silence()
    folder = Path(config.output_dir)
    with ExitStack() as held, explaining_write_errors(folder, "make room, or set another output_dir"):
        ranks.decided_by_first(lambda: held.enter_context(writing_alone(folder)))
        _evaluate_into(folder, config, ranks)
    console.note(f"written: {folder / RESULTS_FILE} and {folder / REPORT_FILE}")
    console.suggest("ask it", this_command("inference"))
    return 0


def _evaluate_into(folder: Path, config: Config, ranks: Ranks) -> None:
    from lorakit.data_processing.overview import warnings
    from lorakit.engine import part_ranks
    from lorakit.evaluate.comparison import compare, show_comparison
    from lorakit.evaluate.fewer_bits import try_int8
    from lorakit.evaluate.reporting import Evaluated, leave_report

    measured = {"decode_weights": "same"} if config.decode_weights == "auto" else {}
    assistant = open_assistant(config.model_copy(update=measured))
    limit = getattr(assistant.bundle.model.config.get_text_config(), "max_position_embeddings", None)
    evaluated = config.model_copy(update={"system_prompt": assistant.system_prompt})
    dataset = load_validation(evaluated, assistant.chat_format, limit)
    adapters = chosen_adapters(config) if assistant.has_adapter else []
    adapter = adapters[0].folder if adapters else None
    train = _training_rows(adapter, evaluated, assistant.chat_format, limit) if adapter else None
    for line in warnings(dataset, train if train and train.name != dataset.name else None):
        console.warn(line)
    ranks.decided_by_first(lambda: keep_foreign(folder, _WRITTEN, console.note))
    comparison = compare(
        assistant, dataset, config, config.max_generated_rows, folder, ranks, train.name if train else None
    )
    show_comparison(comparison)
    part_ranks()
    if ranks.is_first:
        try_int8(assistant, adapters, dataset.examples, config)
        leave_report(folder, Evaluated("evaluate", assistant, adapter, train, dataset, comparison), config)


def _training_rows(adapter: Path, config: Config, chat_format: ChatFormat, limit: int | None) -> Dataset | None:
    """Read the rows that an adapter was trained on, named by the configuration beside it or else by this one."""
    try:
        return load_training(_used_in_training(adapter.parent, config), chat_format, limit)
    except LorakitError as error:
        console.note(f"{REPORT_FILE} goes without the training rows: {error.message}")
        return None


def _used_in_training(run_folder: Path, config: Config) -> Config:
    """Return the settings that lie beside an adapter; where there are none, those of this task.

    An adapter comes from anybody, and its settings with it: what they name is read where it lies near, in the folder
    that holds the run or in which we stand, or where this task names it too. Nothing is fetched.

    Raises:
        SettingsError: They are damaged, or name other rows.
    """
    file = run_folder / USED_CONFIG_FILE
    if not file.is_file():
        return config
    if leads_out(file):
        raise SettingsError(f"{file} is a link that leads out of the folder", "copy the run's folder again")
    used = load_config(str(file), {}, [])
    listed = [used.train_file] if isinstance(used.train_file, str) else [source.path for source in used.train_file]
    near = run_folder.resolve().parent, Path.cwd()
    is_near = all(os.path.exists(name) and any(map(Path(name).resolve().is_relative_to, near)) for name in listed)
    if used.train_file != config.train_file and not is_near:
        raise SettingsError(f"{file} names rows of other folders", "set train_file to them to have them compared")
    return used
