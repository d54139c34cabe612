"""Loss, perplexity and answers on held-out rows, base against tuned."""

from __future__ import annotations

from pathlib import Path

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import load_dataset
from lorakit.errors import SettingsError
from lorakit.inference import open_assistant
from lorakit.runs import RESULTS_FILE, open_folder

__all__ = ["run"]


def run(config: Config) -> int:
    """Evaluate on ``validation_file``; results go to the terminal and to eval_results.json in ``output_dir``."""
    from lorakit.engine import Ranks, part_ranks
    from lorakit.evaluate.comparison import compare, show_comparison

    if config.validation_file is None:
        raise SettingsError("validation_file: is null, so there is nothing to evaluate", "name a file of rows")
    ranks = Ranks.of_environment()
    if not ranks.is_first:
        console.silence()
    folder = open_folder(Path(config.output_dir)) if ranks.is_first else Path(config.output_dir)
    assistant = open_assistant(config)
    limit = getattr(assistant.bundle.model.config.get_text_config(), "max_position_embeddings", None)
    evaluated = config.model_copy(update={"system_prompt": assistant.system_prompt})
    dataset = load_dataset(config.validation_file, evaluated, assistant.chat_format, limit)
    for line in dataset.rejection_lines():
        console.warn(line)
    show_comparison(compare(assistant, dataset, config, config.max_generated_rows, folder, ranks))
    part_ranks()
    console.note(f"written: {folder / RESULTS_FILE}")
    return 0
