"""What a run says of itself before its first step, and how to go on after its last."""

from __future__ import annotations

from transformers import TrainingArguments

from lorakit import console
from lorakit.data_processing import Dataset
from lorakit.model_config import TESTED_FAMILIES, adapted_parts
from lorakit.train.planning.plan import RunPlan, memory_line, rows_per_step
from lorakit.train.setup.preparing import Prepared


def show_plan(prepared: Prepared, plan: RunPlan, steps: int, after_step: int) -> None:
    """Print model, rows, memory and steps of a run that is about to begin."""
    config, bundle, arguments = prepared.config, prepared.bundle, prepared.arguments
    data, validation = prepared.data.train, prepared.data.validation
    trainable = sum(p.numel() for p in bundle.model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in bundle.model.parameters())
    tested = TESTED_FAMILIES.get(bundle.family)
    world = arguments.world_size
    rows_a_step = rows_per_step(config) * world
    in_short = [
        ("model", f"{bundle.source.name} ({tested or bundle.family}), {bundle.dtype.name} on {bundle.device}"),
        ("rows", f"{len(data.examples)} rows from {data.name}" + (f", {len(data.cut)} cut" if data.cut else "")),
        *_replayed_line(prepared),
        ("validation", f"{len(validation.examples)} rows from {validation.name}" if validation else "none"),
        ("steps", f"{steps} of {rows_a_step} rows" + (f", {after_step} done before" if after_step else "")),
        ("time", f"about {duration(plan.seconds)} to train, validation and answers not counted"),
        ("memory", f"about {plan.memory.peak / 1e9:.1f} GB of the {plan.memory.available / 1e9:.1f} that can be had"),
    ]
    if "experts." in (adapted := adapted_parts(bundle)):
        in_short.append(("adapted", adapted))
    console.facts("training", in_short)
    chosen = "torch_dtype auto: " if config.torch_dtype == "auto" else ""
    details = [
        ("model", f"{bundle.source.name} ({tested or f'{bundle.family}: a family without tests of its own'})"),
        ("dtype", f"{bundle.dtype.name} ({chosen}{bundle.dtype.reason}); the adapter is float32"),
        ("device", str(bundle.device) + _world_note(arguments)),
        ("trainable parameters", f"{trainable:,} of {every:,} ({trainable / every:.2%})"),
        ("adapted layers", adapted),
        ("tokens", f"{data.tokens:,} an epoch, {data.targets:,} of them trained{_tokens_note(data)}"),
        ("memory", memory_line(plan.memory, bundle.device)),
        ("kernels", str(prepared.backend)),
        ("compiled", f"{'yes' if plan.is_compiled else 'no'} ({plan.compile_reason})"),
    ]
    console.details("in detail", details)


def _replayed_line(prepared: Prepared) -> list[tuple[str, str]]:
    replayed = prepared.data.replayed
    if not replayed:
        return []
    return [("replayed", f"{len(replayed)} answers of the base to general questions, {replayed.tokens:,} tokens")]


def duration(seconds: float) -> str:
    """Write a time as a person would."""
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _tokens_note(data: Dataset) -> str:
    pictures = f", {data.picture_tokens:,} stand for pictures" if data.picture_tokens else ""
    return f"{pictures}; longest row {data.longest}"


def _world_note(arguments: TrainingArguments) -> str:
    if arguments.world_size == 1:
        return ""
    return f", {arguments.world_size} of them, " + (
        "the model sharded by FSDP" if arguments.fsdp else "a model on each"
    )
