"""One training run from beginning to end."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments, set_seed

from lorakit import console
from lorakit.config import Config
from lorakit.data_processing import ChatFormat, Dataset, ImageFormat, load_datasets
from lorakit.engine import (
    Ranks,
    choose_device,
    choose_dtype,
    compiled_layers,
    part_ranks,
    peak_bytes,
    reset_peak,
)
from lorakit.errors import RunError, SettingsError
from lorakit.evaluate.comparison import compare, show_comparison
from lorakit.inference import assistant_for
from lorakit.model_config import (
    TESTED_FAMILIES,
    AdapterRecord,
    ModelBundle,
    adapted_parts,
    attach_adapter,
    attach_new_adapter,
    load_image_processor,
    load_model,
    load_tokenizer,
    locate_model,
    quiet_libraries,
    read_model_type,
    save_adapter,
)
from lorakit.runs import (
    ADAPTER_FOLDER,
    CURVE_FILE,
    RESULTS_FILE,
    UNUSED_ROWS_FILE,
    USED_CONFIG_FILE,
    MemoryRecord,
    RecordLog,
    archive_previous_run,
    open_folder,
    write_text,
)
from lorakit.train.arguments import training_arguments
from lorakit.train.curve import draw_loss_curve
from lorakit.train.planning import RunPlan, memory_line, plan_run
from lorakit.train.progress import ShowProgress
from lorakit.train.resuming import checkpoint_to_resume, earlier_plan
from lorakit.train.sharding import gather_trained
from lorakit.train.stopping import StopOnSignal
from lorakit.train.trainer import LoraTrainer

_ROWS_ANSWERED_AT_END = 20
_INTERRUPTED = 130


@dataclass(frozen=True)
class _Data:
    train: Dataset
    validation: Dataset | None


@dataclass(frozen=True)
class _Prepared:
    """Everything a run needs before its first step."""

    bundle: ModelBundle
    chat_format: ChatFormat
    data: _Data
    arguments: TrainingArguments
    record: AdapterRecord


def train(config: Config) -> int:
    """Train, save the adapter, and compare it with its base.

    Returns:
        The exit code: 0, or 130 where the run was stopped with a checkpoint to go on from.
    """
    quiet_libraries()
    is_main = Ranks.of_environment().is_first
    if not is_main:
        console.silence()
    folder = open_folder(Path(config.output_dir)) if is_main else Path(config.output_dir)
    checkpoint = checkpoint_to_resume(config, folder)
    prepared = _prepare(config)
    if is_main:
        _start_records(config, prepared, folder, checkpoint)
    is_done = _train_steps(config, prepared, folder, checkpoint)
    trained = gather_trained(prepared.bundle.model) if is_done else {}
    part_ranks()
    if not is_done:
        return _INTERRUPTED
    if is_main:
        _finish(config, prepared, folder, trained)
    return 0


def _start_records(config: Config, prepared: _Prepared, folder: Path, checkpoint: Path | None) -> None:
    if checkpoint is None and (archive := archive_previous_run(folder)):
        console.note(f"an earlier run was moved to {archive}")
    write_text(folder / USED_CONFIG_FILE, _as_yaml(config))
    _write_unused_rows(folder, prepared.data)


def _prepare(config: Config) -> _Prepared:
    device = choose_device()
    source = locate_model(config.model_name_or_path, config.model_hub)
    tokenizer = load_tokenizer(source)
    chat_format = ChatFormat(tokenizer, ImageFormat.of(load_image_processor(source), config))
    _, position_limit = read_model_type(source)
    data = _load_data(config, chat_format, position_limit)
    dtype = choose_dtype(config.torch_dtype, device)
    arguments = training_arguments(config, dtype, device)  # before the weights: a wrong argument should not wait
    if dtype.warning:
        console.warn(dtype.warning)
    bundle = load_model(source, tokenizer, dtype, device)
    set_seed(config.seed)
    adapted = attach_new_adapter(bundle, config)
    record = AdapterRecord(
        base_model=source.name,
        base_fingerprint=source.fingerprint(),
        template_hash=chat_format.template_hash,
        end_of_turn=tokenizer.convert_ids_to_tokens(chat_format.end_of_turn_id),
        system_prompt=config.system_prompt,
        thinking=data.train.trains_thinking,
    )
    bundle = ModelBundle(source, tokenizer, adapted, bundle.family, dtype, device)
    return _Prepared(bundle, chat_format, data, arguments, record)


def _load_data(config: Config, chat_format: ChatFormat, position_limit: int | None) -> _Data:
    train_rows, validation = load_datasets(config, chat_format, position_limit)
    for dataset in (train_rows, validation):
        for line in dataset.rejection_lines() if dataset else ():
            console.warn(f"not used: {line}")
    return _Data(train_rows, validation)


def _train_steps(config: Config, prepared: _Prepared, folder: Path, checkpoint: Path | None) -> bool:
    """Run the optimizer; return whether it came to its end."""
    stop = StopOnSignal()
    after_step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    validation = prepared.data.validation
    model, sequences = prepared.bundle.model, prepared.data.train.encoded
    earlier = earlier_plan(folder) if checkpoint else None
    plan = plan_run(config, model, prepared.arguments, sequences, earlier)
    records = RecordLog(folder, after_step) if prepared.arguments.process_index == 0 else None
    if records and not earlier:
        records.append(plan.record)
    with _naming_missing_packages():
        trainer = LoraTrainer(
            model=model,
            args=prepared.arguments,
            train_sequences=sequences,
            max_tokens=plan.max_tokens,
            validation_sequences=validation.encoded if validation else None,
            records=records,
            callbacks=[stop],
        )
    steps = trainer.planned_steps
    _show_plan(config, prepared, plan, steps, after_step)
    reset_peak(prepared.bundle.device)
    started = time.perf_counter()
    with (
        _naming_missing_packages(),
        stop.listening(),
        console.progress(steps, "training") as bar,
        compiled_layers(model) if plan.is_compiled else nullcontext(),
    ):
        trainer.progress = ShowProgress(bar, steps, config.num_train_epochs)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.is_world_process_zero():
        draw_loss_curve(folder)
    if stop.is_stopped and trainer.state.global_step < trainer.state.max_steps:
        console.note(f"stopped at step {trainer.state.global_step} of {steps}; continue with: {_resume_command()}")
        return False
    seconds = time.perf_counter() - started
    console.note(f"trained {steps - after_step} steps in {seconds:.1f} s{_peak_note(prepared, plan, records, steps)}")
    return True


def _peak_note(prepared: _Prepared, plan: RunPlan, records: RecordLog | None, step: int) -> str:
    """Record the peak, and hold it against the plan."""
    peak = peak_bytes(prepared.bundle.device)
    if records:
        records.append(MemoryRecord(step, peak))
    return f"; peak memory {peak / 1e9:.2f} GB, planned {plan.memory.peak / 1e9:.2f}"


@contextmanager
def _naming_missing_packages() -> Iterator[None]:
    """Trackers and optimizers of other packages complain only when the Trainer first needs them."""
    try:
        yield
    except (ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "install" not in str(error):
            raise
        raise SettingsError(f"trainer_args: {error}", "install the package, or leave that argument out") from error


def _finish(config: Config, prepared: _Prepared, folder: Path, trained: dict[str, Any]) -> None:
    bundle = prepared.bundle
    _check_has_learnt(trained)
    save_adapter(bundle.model, bundle.tokenizer, prepared.record, folder / ADAPTER_FOLDER, trained)
    console.note(f"adapter saved: {folder / ADAPTER_FOLDER}")
    if prepared.arguments.fsdp:  # the other ranks, which have the other shards, are done
        bundle = load_model(bundle.source, bundle.tokenizer, bundle.dtype, bundle.device)
        bundle = replace(bundle, model=attach_adapter(bundle, folder / ADAPTER_FOLDER))
    bundle.model.eval()
    assistant = assistant_for(bundle, prepared.chat_format, config, prepared.record)
    dataset = prepared.data.validation or prepared.data.train
    most_rows = config.max_generated_rows or _ROWS_ANSWERED_AT_END
    show_comparison(compare(assistant, dataset, config, most_rows, folder))
    console.note(f"written: {RESULTS_FILE}, {CURVE_FILE} and events.jsonl in {folder}")
    adapter = (
        "" if config.lora_model_path is None else f" --lora_model_path {shlex.quote(str(folder / ADAPTER_FOLDER))}"
    )
    console.note(f"ask it: {_command('inference')}{adapter}")


def _check_has_learnt(trained: dict[str, Any]) -> None:
    learnt = [parameter for name, parameter in trained.items() if "lora_B" in name]
    if not any(bool(parameter.any()) for parameter in learnt):
        raise RunError(
            "training has left every lora_B at zero: the adapter would change nothing",
            "raise learning_rate or num_train_epochs; the last checkpoint is kept",
        )


def _show_plan(config: Config, prepared: _Prepared, plan: RunPlan, steps: int, after_step: int) -> None:
    bundle, data = prepared.bundle, prepared.data.train
    trainable = sum(p.numel() for p in bundle.model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in bundle.model.parameters())
    tested = TESTED_FAMILIES.get(bundle.family)
    world = prepared.arguments.world_size
    rows_a_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * world
    validation = prepared.data.validation
    facts = [
        ("model", f"{bundle.source.name} ({tested or f'{bundle.family}: a family without tests of its own'})"),
        ("dtype", f"{bundle.dtype.name} ({bundle.dtype.reason}); the adapter is float32"),
        ("device", str(bundle.device) + _world_note(prepared.arguments)),
        ("trainable parameters", f"{trainable:,} of {every:,} ({trainable / every:.2%})"),
        ("adapted layers", adapted_parts(bundle)),
        ("rows", f"{len(data.examples)} from {data.name}" + (f", {len(data.cut)} cut" if data.cut else "")),
        ("tokens", f"{data.tokens:,} an epoch, {data.targets:,} of them trained{_tokens_note(data)}"),
        ("validation", f"{len(validation.examples)} rows from {validation.name}" if validation else "none"),
        ("memory", memory_line(plan.memory, bundle.device)),
        ("compiled", f"{'yes' if plan.is_compiled else 'no'} ({plan.compile_reason})"),
        ("steps", f"{steps} of {rows_a_step} rows" + (f", {after_step} done before" if after_step else "")),
    ]
    console.facts("training", facts)


def _tokens_note(data: Dataset) -> str:
    pictures = f", {data.picture_tokens:,} stand for pictures" if data.picture_tokens else ""
    return f"{pictures}; longest row {data.longest}"


def _world_note(arguments: TrainingArguments) -> str:
    if arguments.world_size == 1:
        return ""
    return f", {arguments.world_size} of them, " + (
        "the model sharded by FSDP" if arguments.fsdp else "a model on each"
    )


def _write_unused_rows(folder: Path, data: _Data) -> None:
    datasets = [dataset for dataset in (data.train, data.validation) if dataset is not None]
    lines = [line for dataset in datasets for line in dataset.rejection_lines(most=len(dataset.rejected))]
    if lines:
        write_text(folder / UNUSED_ROWS_FILE, "\n".join(lines) + "\n")


def _as_yaml(config: Config) -> str:
    """The settings of this run, for another one to start with."""
    used = config.model_copy(update={"resume": False})
    return yaml.safe_dump(used.model_dump(), allow_unicode=True, sort_keys=False)


def _resume_command() -> str:
    given = sys.argv[1:]
    resume = [] if "resume=true" in given else ["--set", "resume=true"]
    return shlex.join(["python", "main.py", *given, *resume])


def _command(task: str) -> str:
    """The command line of this process for another task."""
    given = sys.argv[1:]
    if "--task" in given:
        place = given.index("--task") + 1
        return shlex.join(["python", "main.py", *given[:place], task, *given[place + 1 :]])
    return f"python main.py --task {task}"
