"""Optimizer, schedule and metrics that ``trainer_args`` ask for, tried on a stand-in before any weight is loaded."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_optimizer import is_optimizer_factory

from lorakit.errors import SettingsError
from lorakit.train.checkpoints.state_files import write_state

MEASURED = ("loss", "eval_loss")  # what a validation in training finds
_STEPS = 100
_WORKERS_PER_CORE = 4
_WITHOUT_ARGUMENTS = ("constant", "constant_with_warmup")  # for which transformers drops them in silence
_BY_METRIC = ("reduce_lr_on_plateau", "greedy")  # schedules that wait for a validation

_SCHEDULE_REMEDIES = {
    "cosine_with_min_lr": "add lr_scheduler_kwargs: {min_lr_rate: 0.1}",
    "cosine_warmup_with_min_lr": "add lr_scheduler_kwargs: {min_lr_rate: 0.1}",
    "warmup_stable_decay": "add lr_scheduler_kwargs: {num_decay_steps: 10}",
    "cosine": "min_lr and min_lr_rate belong to lr_scheduler_type: cosine_with_min_lr",
}


def rehearse(arguments: TrainingArguments) -> None:
    """Try what a run would come to only after its first steps, or after its first epoch.

    Raises:
        SettingsError: A metric is not measured, or the optimizer or the schedule cannot be built, stepped or saved.
    """
    _check_metrics(arguments)
    _check_reporting(arguments)
    _check_workers(arguments)
    optimizer = _optimizer(arguments)
    schedule = _schedule(arguments, optimizer)
    if arguments.save_strategy == "no" or arguments.fsdp:
        return
    with tempfile.TemporaryDirectory() as folder:
        states = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        try:
            write_state(Path(folder) / "state", states)
        except TypeError as error:
            raise SettingsError(
                f"trainer_args: a checkpoint cannot hold the state of this optimizer or schedule ({error})",
                "choose another in trainer_args, or set trainer_args: {save_strategy: no}",
            ) from error


def _check_metrics(arguments: TrainingArguments) -> None:
    metric = arguments.metric_for_best_model
    if metric is not None and metric not in MEASURED:
        raise SettingsError(
            f"trainer_args: metric_for_best_model: {metric} is not measured in training",
            "leave it out, or name eval_loss; --task evaluate scores answers",
        )
    waiting = next((name for name in _BY_METRIC if name == arguments.lr_scheduler_type), None)
    waiting = f"lr_scheduler_type: {waiting}" if waiting else None
    if arguments.save_strategy == "best":
        waiting = "save_strategy: best"
    if waiting and arguments.eval_strategy == "no":
        raise SettingsError(f"trainer_args: {waiting} waits for a validation", "set validation_file and eval_strategy")


def _check_reporting(arguments: TrainingArguments) -> None:
    try:
        for kind in get_reporting_integration_callbacks(arguments.report_to):
            kind()
    except Exception as error:  # of transformers and the packages behind a tracker
        raise SettingsError(
            f"trainer_args: report_to: {arguments.report_to!r} cannot be used ({_reason(error)})",
            "name a tracker that transformers knows and install its package, or leave report_to out",
        ) from error


def _check_workers(arguments: TrainingArguments) -> None:
    most = _WORKERS_PER_CORE * (os.cpu_count() or 1)
    if arguments.dataloader_num_workers > most:
        raise SettingsError(
            f"trainer_args: dataloader_num_workers: {arguments.dataloader_num_workers} are more than {most}, "
            f"{_WORKERS_PER_CORE} for each core",
            "leave it out: rows are ready in memory",
        )
    try:
        DataLoader(
            [0],  # type: ignore[arg-type]
            num_workers=arguments.dataloader_num_workers,
            persistent_workers=arguments.dataloader_persistent_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
            multiprocessing_context=arguments.dataloader_multiprocessing_context,
        )
        torch.Generator().manual_seed(arguments.data_seed or 0)
    except (ValueError, TypeError, RuntimeError) as error:
        raise SettingsError(f"trainer_args: {error}", "leave it out: rows are ready in memory") from error
    if not isinstance(arguments.debug, list):
        raise SettingsError(f"trainer_args: debug is no text ({arguments.debug})", "leave it out")


def _optimizer(arguments: TrainingArguments) -> Any:
    stand_in = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False)).to(arguments.device)
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, stand_in)
        unheard = _unheard(arguments, stand_in, repr(settings))
        if is_optimizer_factory(kind):
            optimizer = kind()(stand_in, **settings)
        else:
            own = {name: value for name, value in settings.items() if name not in ("params", "model", "optimizer_dict")}
            parameters = settings.get("params", settings.get("model", stand_in.parameters()))
            optimizer = kind(parameters, **own)
        stand_in(torch.ones(1, 8, device=arguments.device)).sum().backward()
        optimizer.step()
    except Exception as error:  # of torch, transformers and the packages behind an optimizer
        raise SettingsError(
            f"trainer_args: optim: {_word(arguments.optim)} cannot be used ({_reason(error)})",
            "correct optim and optim_args, install the package that it needs, or leave them out",
        ) from error
    if unheard:
        what, name = ", ".join(unheard), _word(arguments.optim)
        raise SettingsError(
            f"trainer_args: optim_args: {what} would change nothing, as {name} does not read it",
            "leave it out, or take an optimizer that does",
        )
    return optimizer


def _unheard(arguments: TrainingArguments, stand_in: Any, settings: str) -> list[str]:
    """Return what of ``optim_args`` changes nothing about the optimizer, which transformers does not say."""
    parts = (arguments.optim_args or "").split(",")
    unheard = []
    for part in filter(None, parts):
        without = copy.copy(arguments)
        without.optim_args = ",".join(other for other in parts if other != part) or None
        if repr(Trainer.get_optimizer_cls_and_kwargs(without, stand_in)[1]) == settings:
            unheard.append(part)
    return unheard


def _schedule(arguments: TrainingArguments, optimizer: Any, steps: int = _STEPS) -> Any:
    name = _word(arguments.lr_scheduler_type)
    if name in _WITHOUT_ARGUMENTS and arguments.lr_scheduler_kwargs:
        raise SettingsError(
            f"trainer_args: lr_scheduler_kwargs would change nothing, as {name} does not read them", "leave them out"
        )
    try:
        schedule = get_scheduler(
            name,
            optimizer=optimizer,
            num_warmup_steps=arguments.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),
        )
        if name not in _BY_METRIC and steps == _STEPS:
            optimizer.step()
            schedule.step()
    except Exception as error:  # each schedule has its own arguments, and refuses others as it likes
        raise SettingsError(
            f"trainer_args: lr_scheduler_type: {name} cannot be used ({_reason(error)})",
            _SCHEDULE_REMEDIES.get(name, "correct lr_scheduler_kwargs, or leave them out"),
        ) from error
    return schedule


def check_schedule(arguments: TrainingArguments, steps: int) -> None:
    """Hold the schedule to the steps of the run, all of which may be to warm up.

    Raises:
        SettingsError: It has no learning rate for one of them.
    """
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=arguments.learning_rate)
    schedule, warmup = _schedule(arguments, optimizer, steps), arguments.get_warmup_steps(steps)
    borders = {step for step in (0, 1, warmup, warmup + 1, steps - 1, steps) if 0 <= step <= steps}
    try:
        for rate in getattr(schedule, "lr_lambdas", ()):
            for step in borders:
                rate(step)
    except Exception as error:  # a division by the steps that are left, which may be none
        raise SettingsError(
            f"trainer_args: lr_scheduler_type: {_word(arguments.lr_scheduler_type)} cannot go through {steps} steps, "
            f"{warmup} of them to warm up ({_reason(error)})",
            "lower warmup_steps, or take another schedule",
        ) from error


def _word(choice: Any) -> str:
    """Return one of transformers' choices as it is written in settings."""
    return str(getattr(choice, "value", choice))


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
