"""The end of a run: its adapter is saved, compared with the base, and shown in the report."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing.tokens.packing import pack
from lorakit.evaluate.comparison import compare, show_comparison
from lorakit.evaluate.fewer_bits import try_int8
from lorakit.evaluate.reporting import Evaluated, leave_report
from lorakit.inference import assistant_for
from lorakit.invocation import this_command
from lorakit.model_config import AdapterChoice, attach_adapter, load_model, save_adapter
from lorakit.runs import ADAPTER_FOLDER, CURVE_FILE, REPORT_FILE, RESULTS_FILE
from lorakit.train.alarms import check_has_learnt, check_makes_a_difference
from lorakit.train.curve import leave_loss_curve
from lorakit.train.setup.preparing import Prepared

_ROWS_COMPARED = 4  # with and without the adapter, before it is saved


def finish(config: Config, prepared: Prepared, folder: Path, trained: dict[str, Any]) -> None:
    """Save what was trained, then compare it with the base and leave the report.

    Args:
        config: The run's.
        prepared: The model that was trained, and its rows.
        folder: Of the run.
        trained: All trained tensors by their names, from all ranks.

    Raises:
        RunError: What was trained is no number, or makes no difference; it is not saved.
        ModelError: The base's files were written to meanwhile, which the run may have computed with.
    """
    bundle = prepared.bundle
    bundle.model.eval()
    check_has_learnt(trained)
    prepared.check_base()
    if not prepared.arguments.fsdp:
        sequences = prepared.data.train.encoded
        shortest = np.argsort(sequences.lengths(), kind="stable")[:_ROWS_COMPARED]
        rows = (pack([sequences[int(place)]]).to(bundle.device) for place in shortest)
        check_makes_a_difference(bundle.model, rows)
    save_adapter(bundle.model, bundle.tokenizer, prepared.record, folder / ADAPTER_FOLDER, trained)
    console.note(f"adapter saved: {folder / ADAPTER_FOLDER}; it now answers {len(prepared.answered)} rows")
    with console.progress(None, "comparing with the base"):
        _compare_with_base(config, replace(prepared, bundle=bundle), folder)


def _compare_with_base(config: Config, prepared: Prepared, folder: Path) -> None:
    bundle = prepared.bundle
    leave_loss_curve(folder)
    if prepared.arguments.fsdp:  # the other ranks, which have the other shards, are done
        bundle = load_model(bundle.source, bundle.tokenizer, bundle.dtype, bundle.device, backend=prepared.backend)
        bundle = replace(bundle, model=attach_adapter(bundle, folder / ADAPTER_FOLDER))
    bundle.model.eval()
    assistant = assistant_for(bundle, prepared.chat_format, config, prepared.record)
    dataset = prepared.held_out
    comparison = compare(
        assistant, dataset, config, len(prepared.answered), folder, trained_on=prepared.data.train.name
    )
    leave_loss_curve(folder, comparison.scores["base"]["loss"] if prepared.data.validation else None)
    show_comparison(comparison)
    try_int8(assistant, [AdapterChoice("trained", folder / ADAPTER_FOLDER)], prepared.answered, config)
    evaluated = Evaluated("train", assistant, folder / ADAPTER_FOLDER, prepared.data.train, dataset, comparison)
    leave_report(folder, evaluated, config)
    console.note(f"written: {REPORT_FILE}, {RESULTS_FILE}, {CURVE_FILE} and events.jsonl in {folder}")
    adapter = (
        "" if config.lora_model_path is None else f" --lora_model_path {shlex.quote(str(folder / ADAPTER_FOLDER))}"
    )
    console.suggest("ask it", this_command("inference") + adapter)
