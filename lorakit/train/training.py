"""One training run from beginning to end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from transformers import EarlyStoppingCallback

from lorakit import console
from lorakit.config import Config, as_yaml
from lorakit.engine import (
    Ranks,
    compiled_layers,
    part_ranks,
    peak_bytes,
    release_memory,
    reset_peak,
)
from lorakit.errors import RunError, SettingsError
from lorakit.interrupts import INTERRUPTED
from lorakit.invocation import this_command
from lorakit.model_config import (
    RECORD_FILE,
    quiet_libraries,
)
from lorakit.runs import (
    ADAPTER_FOLDER,
    CHECKPOINT_ASIDE,
    FILES_OF_A_RUN,
    PREVIOUS,
    UNUSED_ROWS_FILE,
    USED_CONFIG_FILE,
    WRITTEN_FILE,
    MemoryRecord,
    RecordLog,
    RunIdentity,
    archive_previous_run,
    check_room,
    checkpoints,
    clear_working_folder,
    explaining_write_errors,
    finish_archiving,
    has_run,
    has_unfinished_run,
    new_mark,
    settle_folder,
    settle_folders,
    step_of,
    write_own_text,
    writing_alone,
)
from lorakit.train.checkpoints.resuming import (
    EarlierRun,
    check_same,
    clear_the_way,
    effective_settings,
    find_earlier_run,
    resumed_settings,
)
from lorakit.train.checkpoints.sharding import gather_trained
from lorakit.train.curve import leave_loss_curve
from lorakit.train.finishing import finish
from lorakit.train.planning.fitting import SHARE_OF_SHORT_RUN, effort_before_training, settle
from lorakit.train.planning.plan import RunPlan, longest_micro_batch, optimizer_values, rows_per_step
from lorakit.train.planning.summary import duration, show_plan
from lorakit.train.progress import ShowProgress
from lorakit.train.setup.preparing import Data, Prepared
from lorakit.train.setup.rehearsal import check_schedule
from lorakit.train.setup.replay import save_replayed
from lorakit.train.step import TokenBudget, Trace
from lorakit.train.stopping import StopOnSignal
from lorakit.train.trainer import LoraTrainer

_FILES_BESIDE_BYTES = 2 * 10**6  # tokenizer, records, curve and report


def run(config: Config) -> int:
    """Train, save the adapter, and compare it with its base.

    Returns:
        The exit code: 0, or 130 where the run was stopped with a checkpoint to go on from.
    """
    quiet_libraries()
    ranks = Ranks.of_environment()
    if not ranks.is_first:
        console.silence()
    ranks.join(config.trainer_args.get("ddp_timeout"))
    folder = Path(config.output_dir)
    with ExitStack() as held, explaining_write_errors(folder, _remedy()):
        ranks.decided_by_first(lambda: held.enter_context(writing_alone(folder)))
        return _train_into(folder, config, ranks)


def _remedy() -> str:
    return f"make room or mend the folder; the last checkpoint is as it was, go on with: {_resume_command()}"


def _resume_command() -> str:
    return this_command("train", ["--set", "resume=true"])


def _earlier_run(folder: Path, config: Config) -> EarlierRun | None:
    """End what a crash has broken off in the folder, and find the run to continue."""
    finish_archiving(folder)
    settle_folders(folder, "checkpoint-*")
    settle_folder(folder / ADAPTER_FOLDER)
    for name in (*FILES_OF_A_RUN, WRITTEN_FILE, CHECKPOINT_ASIDE):
        clear_working_folder(folder / name)
    earlier = find_earlier_run(config, folder)
    adapter = folder / ADAPTER_FOLDER
    if earlier and adapter.exists() and not (adapter / RECORD_FILE).is_file():
        raise RunError(f"{adapter}: was not made by lorakit, and would be replaced", "move it elsewhere")
    return earlier


@contextmanager
def _saying_what_is_saved(folder: Path) -> Iterator[None]:
    """Say, after an interrupt that did not wait, where it can go on."""
    try:
        yield
    except KeyboardInterrupt:
        console.note("")
        if (folder / ADAPTER_FOLDER / RECORD_FILE).is_file():
            console.note(f"stopped; the adapter is whole in {folder / ADAPTER_FOLDER}; answers and report are missing")
            console.suggest("make them", this_command("evaluate", ["--lora_model_path", str(folder / ADAPTER_FOLDER)]))
        elif saved := checkpoints(folder):
            console.note(f"stopped at once; saved is all up to step {step_of(saved[0])}, in {saved[0]}")
            console.suggest("go on from there", _resume_command())
        else:
            console.note("stopped at once, before anything was saved")
            console.suggest("begin again", this_command("train"))
        raise


def _say_what_becomes_of(folder: Path) -> None:
    """Say before anything is computed what happens to a run that is there already."""
    if has_unfinished_run(folder):
        console.note(f"there is an unfinished run in {folder}: it will be moved to {folder / PREVIOUS}")
        console.suggest("to go on with it instead, stop this (Ctrl-C) and say", _resume_command())
    elif has_run(folder):
        console.note(
            f"there is a run in {folder}: it will be kept in {folder / PREVIOUS}, and this one takes its place"
        )


def _train_into(folder: Path, config: Config, ranks: Ranks) -> int:
    earlier = ranks.decided_by_first(lambda: _earlier_run(folder, config))
    if ranks.is_first and earlier is None:
        _say_what_becomes_of(folder)
    with console.progress(None, "preparing"):
        settled = settle(resumed_settings(config, earlier), earlier, effort_before_training)
    prepared, plan = settled.prepared, settled.plan
    config = prepared.config
    later = "" if settled.trial.tokens or earlier else "; the longest micro-batch comes with the first step"
    console.detail(f"tried before the first step: {settled.trial}{later}")
    mark = earlier.identity.mark if earlier else ranks.decided_by_first(new_mark)
    identity = _identity(config, prepared, mark)
    ranks.decided_by_first(lambda: check_room(folder, *_disk_needed(prepared)))
    if earlier:
        check_same(earlier, identity, is_forced=config.resume == "force")
    if ranks.is_first:
        _start_records(config, prepared, folder, earlier, mark)
        identity.save(folder)
    stop = StopOnSignal()
    with _saying_what_is_saved(folder), stop.listening():  # until nobody waits for this process any more
        is_done = _train_steps(config, prepared, plan, folder, Continued(mark, earlier, stop))
        trained = gather_trained(prepared.bundle.model) if is_done else {}
        part_ranks()
    if not is_done:
        return INTERRUPTED
    if ranks.is_first:
        with _saying_what_is_saved(folder):
            finish(config, prepared, folder, trained)
    return 0


def _identity(config: Config, prepared: Prepared, mark: str) -> RunIdentity:
    validation = prepared.data.validation if config.keeps_best else None
    return RunIdentity(
        settings=effective_settings(config),
        rows=prepared.data.train.encoded.digest(),
        base_fingerprint=prepared.record.base_fingerprint,
        template_hash=prepared.record.template_hash,
        dtype=prepared.bundle.dtype.name,
        processes=prepared.arguments.world_size,
        kernels=prepared.backend.is_native,
        template_date=prepared.chat_format.date,
        validation_rows=validation.encoded.digest() if validation else None,
        replayed=prepared.data.replayed.digest,
        mark=mark,
    )


def _disk_needed(prepared: Prepared) -> tuple[int, str]:
    """Return the bytes that a run needs at once on the disk, and what takes them."""
    arguments = prepared.arguments
    values = sum(parameter.numel() for parameter in prepared.bundle.model.parameters() if parameter.requires_grad)
    adapter = 4 * values
    checkpoint = adapter + int(4 * values * optimizer_values(str(arguments.optim)))
    most = max(arguments.save_total_limit or 1, 2 if arguments.load_best_model_at_end else 1)  # the newest and the best
    kept = most + 1 if arguments.save_strategy != "no" else 0
    return kept * checkpoint + adapter + _FILES_BESIDE_BYTES, f"{kept} checkpoints and the adapter"


def _start_records(config: Config, prepared: Prepared, folder: Path, earlier: EarlierRun | None, mark: str) -> None:
    if earlier is None and (archive := archive_previous_run(folder)):
        console.note(f"an earlier run was moved to {archive}")
    if earlier is not None:
        clear_the_way(earlier, folder)
    write_own_text(folder, USED_CONFIG_FILE, as_yaml(config))
    if prepared.data.replayed:
        save_replayed(prepared.data.replayed, folder, mark)
    _write_unused_rows(folder, prepared.data)


@dataclass(frozen=True)
class Continued:
    """The mark of a run, where it goes on, if it does, and who may stop it."""

    mark: str
    earlier: EarlierRun | None
    stop: StopOnSignal


def _train_steps(config: Config, prepared: Prepared, plan: RunPlan, folder: Path, run: Continued) -> bool:
    """Run the optimizer; return whether it came to its end."""
    stop, earlier = run.stop, run.earlier
    after_step = earlier.step if earlier else 0
    validation = prepared.data.validation
    model, sequences = prepared.bundle.model, prepared.data.trained
    _check_has_a_step(prepared)
    records = RecordLog(folder, after_step) if prepared.arguments.process_index == 0 else None
    if records and not earlier:
        records.append(plan.record)
    longest = 0 if plan.tried_tokens else longest_micro_batch(prepared, plan.max_tokens).tokens
    with _naming_missing_packages():
        trainer = LoraTrainer(
            model=model,
            args=prepared.arguments,
            train_sequences=sequences,
            budget=TokenBudget(plan.record, longest, SHARE_OF_SHORT_RUN * plan.tokens_to_train),
            validation_sequences=validation.encoded if validation else None,
            trace=Trace(run.mark, records, check_base=prepared.check_base),
            callbacks=[stop, *_early_stopping(config)],
        )
    steps = trainer.planned_steps
    check_schedule(prepared.arguments, steps)
    show_plan(prepared, plan, steps, after_step)
    reset_peak(prepared.bundle.device)
    started = time.perf_counter()
    with (
        _naming_missing_packages(),
        console.progress(steps, "training") as bar,
        compiled_layers(model) if plan.is_compiled else nullcontext(),
    ):
        trainer.progress = ShowProgress(bar, steps, config.num_train_epochs)
        trainer.train(resume_from_checkpoint=str(earlier.checkpoint) if earlier else None)
    release_memory()  # so that curve and answers do not come on top of what the steps took
    if stop.is_stopped and not trainer.is_over:
        console.note(f"stopped at step {trainer.state.global_step} of {steps}, and saved")
        console.suggest("go on with", _resume_command())
        if trainer.is_world_process_zero():
            leave_loss_curve(folder)
        return False
    seconds = time.perf_counter() - started
    peak = _peak_note(prepared, plan, records, steps)
    console.note(f"trained {steps - after_step} steps in {duration(seconds)}")
    if best := trainer.best:
        console.note(f"kept: the adapter of step {best[0]}, whose validation loss of {best[1]:.4f} is the lowest")
        if best[0] < trainer.state.global_step:
            console.note("to have the last one, which knows the rows better by heart: --set load_best_model=false")
    console.detail(peak)
    return True


def _check_has_a_step(prepared: Prepared) -> None:
    rows = len(prepared.data.trained)
    wanted = rows_per_step(prepared.config) * prepared.arguments.world_size
    if prepared.arguments.dataloader_drop_last and rows < wanted:
        raise SettingsError(
            f"trainer_args: dataloader_drop_last leaves no step to take: there are {rows} rows, and {wanted} in a step",
            "leave it out, or lower per_device_train_batch_size",
        )


def _early_stopping(config: Config) -> list[EarlyStoppingCallback]:
    patience = config.early_stopping_patience
    return [EarlyStoppingCallback(patience)] if patience else []


def _peak_note(prepared: Prepared, plan: RunPlan, records: RecordLog | None, step: int) -> str:
    """Record the peak, and hold it against the plan."""
    peak = peak_bytes(prepared.bundle.device)
    if records:
        records.append(MemoryRecord(step, peak))
    return f"peak memory {peak / 1e9:.2f} GB, planned {plan.memory.peak / 1e9:.2f}"


@contextmanager
def _naming_missing_packages() -> Iterator[None]:
    """Trackers and optimizers of other packages complain only when the Trainer first needs them."""
    try:
        yield
    except (ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "install" not in str(error):
            raise
        raise SettingsError(f"trainer_args: {error}", "install the package, or leave that argument out") from error


def _write_unused_rows(folder: Path, data: Data) -> None:
    datasets = [dataset for dataset in (data.train, data.validation) if dataset is not None]
    lines = [line for dataset in datasets for line in dataset.rejection_lines(most=len(dataset.rejected))]
    if lines:
        write_own_text(folder, UNUSED_ROWS_FILE, "\n".join(lines) + "\n")
