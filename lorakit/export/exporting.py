"""``--task export``: an adapter for other tools, as GGUF or in another shape of PEFT's, each proven."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from lorakit import console
from lorakit.config import Config
from lorakit.export.gguf_files import write_gguf_files
from lorakit.export.hub.parcel import MODELFILE
from lorakit.export.peft_files import write_peft
from lorakit.export.placing import unproven
from lorakit.export.producing import Writer, adapter_bytes, export_folder, model_bytes, open_combined, produce
from lorakit.export.weights.quantising import QUANTISED, quantiser
from lorakit.invocation import command

_WRITERS: dict[str, Writer] = {"gguf": write_gguf_files, "peft": write_peft}


def run(config: Config) -> int:
    """Export, prove, and leave the files in ``export_dir``."""
    folder = export_folder(config, config.format)
    if config.export_dtype in QUANTISED and config.format == "gguf":
        quantiser()  # refuses before anything is loaded
    with unproven(folder) as writing:
        taken_bytes = adapter_bytes if config.format == "peft" else model_bytes
        produce(open_combined(config), config, writing, _WRITERS[config.format], taken_bytes=taken_bytes)
    console.note(f"exported: {', '.join(sorted(file.name for file in folder.iterdir()))} in {folder}")
    if (folder / MODELFILE).is_file():
        name = Path(config.output_dir).resolve().name.lower()
        console.suggest("run it with Ollama", f"cd {quote(str(folder))} && ollama create {quote(name)} -f {MODELFILE}")
    else:
        console.suggest(
            "send it to a hub", command("push", "--push_to", "OWNER/NAME", "--lora_model_path", str(folder))
        )
    return 0
