"""``--task export``: an adapter for other tools, as GGUF or in another shape of PEFT's, each proven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lorakit import console
from lorakit.config import Config
from lorakit.export.merging import export_folder, facts_of, open_combined
from lorakit.export.peft_files import peft_reader, write_peft
from lorakit.export.proof import prove, questions_of, references, unproven


def run(config: Config) -> int:
    """Export, prove, and leave the files in ``export_dir``."""
    folder = export_folder(config, config.format)
    with unproven(folder) as writing:
        _export_peft(config, writing)
    console.note(f"exported: {folder}")
    return 0


def _export_peft(config: Config, folder: Path) -> None:
    adapters = open_combined(config)
    assistant = adapters.assistant
    with references(assistant, questions_of(config, assistant), config) as reference:
        written_as = write_peft(adapters, config, folder)
        facts, kind = facts_of(adapters), type(assistant.bundle.model.get_base_model())
        assistant = replace(assistant, bundle=replace(assistant.bundle, model=None))
        adapters.close()
        reader = peft_reader(folder, config.adapter_keys, kind, assistant)
        prove(reader, assistant, reference, written_as, folder, facts)
