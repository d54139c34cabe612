"""One training run from beginning to end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from lorakit import console
from lorakit.config import Config, as_yaml
from lorakit.data_processing import ChatFormat, Dataset, ImageFormat, load_datasets
from lorakit.data_processing.packing import pack
from lorakit.engine import (
    DtypeChoice,
    Ranks,
    choose_device,
    choose_dtype,
    compiled_layers,
    part_ranks,
    peak_bytes,
    reset_peak,
)
from lorakit.errors import SettingsError
from lorakit.evaluate.comparison import compare, show_comparison
from lorakit.evaluate.reporting import Evaluated, leave_report
from lorakit.inference import assistant_for, stop_ids
from lorakit.model_config import (
    AdapterRecord,
    ModelBundle,
    attach_adapter,
    attach_new_adapter,
    load_image_processor,
    load_model,
    load_tokenizer,
    locate_model,
    quantization_of,
    quiet_libraries,
    read_model_type,
    save_adapter,
)
from lorakit.runs import (
    ADAPTER_FOLDER,
    CURVE_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    UNUSED_ROWS_FILE,
    USED_CONFIG_FILE,
    MemoryRecord,
    RecordLog,
    RunIdentity,
    archive_previous_run,
    explaining_write_errors,
    write_text,
    writing_alone,
)
from lorakit.train.alarms import check_has_learnt, check_makes_a_difference
from lorakit.train.arguments import training_arguments
from lorakit.train.curve import draw_loss_curve
from lorakit.train.planning import RunPlan, plan_run
from lorakit.train.progress import ShowProgress
from lorakit.train.resuming import EarlierRun, check_same, effective_settings, find_earlier_run, hash_rows
from lorakit.train.sharding import gather_trained
from lorakit.train.stopping import StopOnSignal
from lorakit.train.summary import command_for, resume_command, show_plan
from lorakit.train.trainer import LoraTrainer

_ROWS_ANSWERED_AT_END = 20
_ROWS_COMPARED = 4  # with and without the adapter, before it is saved
_INTERRUPTED = 130


@dataclass(frozen=True)
class _Data:
    train: Dataset
    validation: Dataset | None


@dataclass(frozen=True)
class Prepared:
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
    folder = Path(config.output_dir)
    with writing_alone(folder) if is_main else nullcontext(), explaining_write_errors(folder, resume_command()):
        return _train_into(folder, config, is_main)


def _train_into(folder: Path, config: Config, is_main: bool) -> int:
    earlier = find_earlier_run(config, folder)
    prepared = prepare(config, earlier.dtype if earlier else None)
    identity = _identity(config, prepared)
    if earlier:
        check_same(earlier, identity, is_forced=config.resume == "force")
    if is_main:
        _start_records(config, prepared, folder, earlier)
        identity.save(folder)
    is_done = _train_steps(config, prepared, folder, earlier)
    trained = gather_trained(prepared.bundle.model) if is_done else {}
    part_ranks()
    if not is_done:
        return _INTERRUPTED
    if is_main:
        _finish(config, prepared, folder, trained)
    return 0


def _identity(config: Config, prepared: Prepared) -> RunIdentity:
    return RunIdentity(
        settings=effective_settings(config),
        rows=hash_rows(prepared.data.train.encoded),
        base_fingerprint=prepared.record.base_fingerprint,
        template_hash=prepared.record.template_hash,
        dtype=prepared.bundle.dtype.name,
        processes=prepared.arguments.world_size,
    )


def _start_records(config: Config, prepared: Prepared, folder: Path, earlier: EarlierRun | None) -> None:
    if earlier is None and (archive := archive_previous_run(folder)):
        console.note(f"an earlier run was moved to {archive}")
    write_text(folder / USED_CONFIG_FILE, as_yaml(config))
    _write_unused_rows(folder, prepared.data)


def prepare(config: Config, earlier_dtype: DtypeChoice | None) -> Prepared:
    """Load rows, tokenizer and model, and attach a new adapter.

    Args:
        config: Of the run.
        earlier_dtype: The number format of a run that is resumed; None to choose one.

    Raises:
        LorakitError: Something in the settings, the rows or the model is wrong.
    """
    device = choose_device()
    quantization = quantization_of(config, device)
    if quantization and config.trainer_args.get("fsdp"):
        raise SettingsError(f"load_in_{quantization} does not go together with FSDP", "leave one of them out")
    source = locate_model(config.model_name_or_path, config.model_hub, config.trust_remote_code)
    tokenizer = load_tokenizer(source)
    chat_format = ChatFormat(tokenizer, ImageFormat.of(load_image_processor(source), config))
    _, position_limit = read_model_type(source)
    data = _load_data(config, chat_format, position_limit)
    dtype = earlier_dtype or choose_dtype(config.torch_dtype, device)
    arguments = training_arguments(config, dtype, device)  # before the weights: a wrong argument should not wait
    if dtype.warning:
        console.warn(dtype.warning)
    bundle = load_model(source, tokenizer, dtype, device, quantization)
    set_seed(config.seed)
    adapted = attach_new_adapter(bundle, config)
    record = AdapterRecord(
        base_model=source.name,
        base_fingerprint=source.fingerprint(),
        template_hash=chat_format.template_hash,
        end_of_turn=chat_format.end_of_turn,
        system_prompt=config.system_prompt,
        thinking=data.train.trains_thinking,
        base_revision=source.revision,
        config_fingerprint=source.config_fingerprint(),
        rendering=chat_format.rendering(),
        stop_tokens=tuple(tokenizer.convert_ids_to_tokens(stop_ids(bundle.model, chat_format))),
        quantization=quantization,
        pixels=(config.min_pixels, config.max_pixels) if chat_format.images else None,
    )
    bundle = ModelBundle(source, tokenizer, adapted, bundle.family, dtype, device)
    return Prepared(bundle, chat_format, data, arguments, record)


def _load_data(config: Config, chat_format: ChatFormat, position_limit: int | None) -> _Data:
    train_rows, validation = load_datasets(config, chat_format, position_limit)
    for dataset in (train_rows, validation):
        for line in dataset.rejection_lines() if dataset else ():
            console.warn(f"not used: {line}")
    return _Data(train_rows, validation)


def _train_steps(config: Config, prepared: Prepared, folder: Path, earlier: EarlierRun | None) -> bool:
    """Run the optimizer; return whether it came to its end."""
    stop = StopOnSignal()
    after_step = earlier.step if earlier else 0
    validation = prepared.data.validation
    model, sequences = prepared.bundle.model, prepared.data.train.encoded
    earlier_plan = earlier.plan if earlier else None
    plan = plan_run(config, model, prepared.arguments, sequences, earlier_plan)
    records = RecordLog(folder, after_step) if prepared.arguments.process_index == 0 else None
    if records and not earlier_plan:
        records.append(plan.record)
    with _naming_missing_packages():
        trainer = LoraTrainer(
            model=model,
            args=prepared.arguments,
            train_sequences=sequences,
            max_tokens=plan.max_tokens,
            validation_sequences=validation.encoded if validation else None,
            records=records,
            callbacks=[stop, *_early_stopping(config)],
        )
    steps = trainer.planned_steps
    show_plan(config, prepared.bundle, prepared.data.train, validation, prepared.arguments, plan, steps, after_step)
    reset_peak(prepared.bundle.device)
    started = time.perf_counter()
    with (
        _naming_missing_packages(),
        stop.listening(),
        console.progress(steps, "training") as bar,
        compiled_layers(model) if plan.is_compiled else nullcontext(),
    ):
        trainer.progress = ShowProgress(bar, steps, config.num_train_epochs)
        trainer.train(resume_from_checkpoint=str(earlier.checkpoint) if earlier else None)
    if trainer.is_world_process_zero():
        draw_loss_curve(folder)
    if stop.is_stopped and trainer.state.global_step < trainer.state.max_steps:
        console.note(f"stopped at step {trainer.state.global_step} of {steps}; continue with: {resume_command()}")
        return False
    seconds = time.perf_counter() - started
    console.note(f"trained {steps - after_step} steps in {seconds:.1f} s{_peak_note(prepared, plan, records, steps)}")
    return True


def _early_stopping(config: Config) -> list[EarlyStoppingCallback]:
    patience = config.early_stopping_patience
    return [EarlyStoppingCallback(patience)] if patience else []


def _peak_note(prepared: Prepared, plan: RunPlan, records: RecordLog | None, step: int) -> str:
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


def _finish(config: Config, prepared: Prepared, folder: Path, trained: dict[str, Any]) -> None:
    bundle = prepared.bundle
    bundle.model.eval()
    check_has_learnt(trained)
    if not prepared.arguments.fsdp:
        rows = (pack([sequence]).to(bundle.device) for sequence in prepared.data.train.encoded[:_ROWS_COMPARED])
        check_makes_a_difference(bundle.model, rows)
    save_adapter(bundle.model, bundle.tokenizer, prepared.record, folder / ADAPTER_FOLDER, trained)
    console.note(f"adapter saved: {folder / ADAPTER_FOLDER}")
    if prepared.arguments.fsdp:  # the other ranks, which have the other shards, are done
        bundle = load_model(bundle.source, bundle.tokenizer, bundle.dtype, bundle.device)
        bundle = replace(bundle, model=attach_adapter(bundle, folder / ADAPTER_FOLDER))
    bundle.model.eval()
    assistant = assistant_for(bundle, prepared.chat_format, config, prepared.record)
    dataset = prepared.data.validation or prepared.data.train
    most_rows = config.max_generated_rows or _ROWS_ANSWERED_AT_END
    comparison = compare(assistant, dataset, config, most_rows, folder)
    show_comparison(comparison)
    evaluated = Evaluated("train", assistant, folder / ADAPTER_FOLDER, prepared.data.train, dataset, comparison)
    leave_report(folder, evaluated, config)
    console.note(f"written: {REPORT_FILE}, {RESULTS_FILE}, {CURVE_FILE} and events.jsonl in {folder}")
    adapter = (
        "" if config.lora_model_path is None else f" --lora_model_path {shlex.quote(str(folder / ADAPTER_FOLDER))}"
    )
    console.note(f"ask it: {command_for('inference')}{adapter}")


def _write_unused_rows(folder: Path, data: _Data) -> None:
    datasets = [dataset for dataset in (data.train, data.validation) if dataset is not None]
    lines = [line for dataset in datasets for line in dataset.rejection_lines(most=len(dataset.rejected))]
    if lines:
        write_text(folder / UNUSED_ROWS_FILE, "\n".join(lines) + "\n")
