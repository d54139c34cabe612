"""How a Trainer saves and goes on: whole checkpoints or none, no pickles, and the same random numbers as before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import Trainer

from lorakit.errors import RunError, SettingsError
from lorakit.model_config import load_adapter_tensors
from lorakit.runs import (
    CARD_FILE,
    CHECKPOINT_ASIDE,
    CheckpointFacts,
    clear_working_folder,
    discard_old,
    fault_in,
    publish,
    working_folder,
    write_json,
)
from lorakit.train.checkpoints.checkpoint_state import STATE_FILE
from lorakit.train.checkpoints.sharding import gather_trained, load_trained, sharded_optimizer_state, whole
from lorakit.train.checkpoints.state_files import read_state, write_state

OPTIMIZER_FILE = "optimizer.safetensors"
_ADAPTER_FILE = "adapter_model.safetensors"
_TRAINED = "trained"  # the adapter's tensors under the names that they have in the sharded model


@contextmanager
def _reading(file: Path) -> Iterator[Path]:
    """Turn whatever a damaged file of a checkpoint leads to into the error that a user needs."""
    try:
        yield file
    except MemoryError:
        raise
    except Exception as error:  # a checkpoint may come from anybody, and each part reads it in its own way
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise RunError(
            f"{file}: does not belong to this run, or is damaged ({reason[:200]})",
            "remove that checkpoint's folder to go on from the one before, or train without resume",
        ) from error


class SavingTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose checkpoints are written aside and renamed when they are whole."""

    is_fsdp_enabled: bool
    control: Any
    _is_writing = False

    def __init__(self, *, args: Any, **others: Any) -> None:
        self._most_checkpoints = args.save_total_limit
        args.save_total_limit = None  # transformers would delete whatever is called so
        try:
            super().__init__(args=args, **others)
        except (ValueError, TypeError, KeyError) as error:  # of what only the Trainer itself looks at
            raise SettingsError(f"trainer_args: {error}", "see the documentation of TrainingArguments") from error

    def checkpoint_facts(self) -> CheckpointFacts:
        """Return what a checkpoint says of its run. Every rank must call this."""
        raise NotImplementedError

    def before_checkpoint(self) -> None:
        """Called when a checkpoint has been written, before it gets its name."""

    def _get_output_dir(self, trial: Any) -> str:
        own = Path(super()._get_output_dir(trial))
        return str(working_folder(own / CHECKPOINT_ASIDE)) if self._is_writing else str(own)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        aside = working_folder(folder / CHECKPOINT_ASIDE)
        if self.args.should_save:
            if not folder.is_dir():  # to make it anew would hide that everything else in it is gone
                raise FileNotFoundError(2, "No such file or directory", str(folder))
            clear_working_folder(folder / CHECKPOINT_ASIDE)
        self.accelerator.wait_for_everyone()
        self._is_writing = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_writing = False
        self.accelerator.wait_for_everyone()
        self._name_best()
        facts = self.checkpoint_facts()
        if self.args.should_save:
            self._publish(aside, folder, facts)
        self.accelerator.wait_for_everyone()

    def _publish(self, aside: Path, folder: Path, facts: CheckpointFacts) -> None:
        step = self.state.global_step
        name = f"checkpoint-{step}"
        write_json(aside / name / STATE_FILE, asdict(self.state))  # transformers would write NaN
        self.before_checkpoint()
        (aside / name / CARD_FILE).unlink(missing_ok=True)  # PEFT's own, which knows nothing but a path of this machine
        publish(aside / name, folder / name, facts)
        clear_working_folder(folder / CHECKPOINT_ASIDE)
        best = self.state.best_model_checkpoint
        discard_old(folder, facts.run, step, self._most_checkpoints, Path(best) if best else None)

    def _determine_best_metric(self, *args: Any, **kwargs: Any) -> bool:
        """Tell whether to save with ``save_strategy: best``: at a new best, and where a stop has asked for it.

        Where the best adapter is kept, a new best is saved whatever the strategy: its step may be none that is due.
        """
        is_new_best = bool(super()._determine_best_metric(*args, **kwargs))
        self.control.should_save |= is_new_best and self.args.load_best_model_at_end
        return is_new_best or self.control.should_save

    def _name_best(self) -> None:
        """Name the best checkpoint, which transformers has looked for where this one was written."""
        if self.state.best_global_step:
            folder = Path(self.args.output_dir)
            self.state.best_model_checkpoint = str(folder / f"checkpoint-{self.state.best_global_step}")

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        """Find the best checkpoint again where its folder has moved, which transformers takes for lost."""
        epochs_and_steps = super()._init_training_state(*args, **kwargs)
        self._name_best()
        return epochs_and_steps

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the adapter, and not the pickle of arguments that transformers puts beside it."""
        if self.args.should_save:
            self.accelerator.unwrap_model(self.model).save_pretrained(
                str(output_dir), state_dict=state_dict, save_embedding_layers=False
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a sharded adapter whole, and not its base with it; one that is not sharded as the Trainer does."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        trained = gather_trained(self.model)
        if self.args.should_save:
            self._save(output_dir, state_dict=trained)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        states = {name: whole(part.state_dict()) for name, part in self._parts()}
        if self.is_fsdp_enabled:
            states[_TRAINED] = gather_trained(self.model)
        if self.args.should_save:
            self._write(Path(output_dir) / OPTIMIZER_FILE, states)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with _reading(Path(checkpoint) / OPTIMIZER_FILE) as file:
            found = read_state(file)
            if self.is_fsdp_enabled:
                found["optimizer"] = sharded_optimizer_state(found["optimizer"], self.optimizer)
            for name, part in self._parts():
                part.load_state_dict(found[name])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the adapter of a checkpoint from safetensors, whatever else lies there: transformers would unpickle it.

        A sharded adapter comes from the file that has its optimizer's state.
        """
        folder = Path(resume_from_checkpoint)
        if self.is_fsdp_enabled:
            with _reading(folder / OPTIMIZER_FILE) as file:
                load_trained(self.model, read_state(file)[_TRAINED])
        else:
            with _reading(folder / _ADAPTER_FILE) as file:
                load_adapter_tensors(self.model, file)

    def _load_best_model(self) -> None:
        """Load the best adapter of this run: a checkpoint may name any folder as the best one."""
        best = Path(self.args.output_dir) / Path(str(self.state.best_model_checkpoint)).name
        if fault := fault_in(best):
            raise RunError(
                f"{best}: the adapter of the best validation loss cannot be read: {fault}",
                "train again, or set resume=force and load_best_model: false to keep the last one",
            )
        self._load_from_checkpoint(str(best))

    def _parts(self) -> list[tuple[str, Any]]:
        parts = [("optimizer", self.optimizer), ("schedule", self.lr_scheduler)]
        scaler = getattr(self.accelerator, "scaler", None)
        return [*parts, ("scaler", scaler)] if scaler is not None else parts

    def _save_scaler(self, output_dir: str) -> None:
        """Nothing: it is one of the parts."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing: it is one of the parts."""

    def _save_rng_state(self, output_dir: str) -> None:
        kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
        states = {
            "python": random.getstate(),
            "numpy": (kind, keys.tolist(), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.args.device) if self.args.device.type == "cuda" else None,
            "mps": torch.mps.get_rng_state() if self.args.device.type == "mps" else None,
        }
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        self._write(self._random_file(output_dir), states)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self._random_file(checkpoint).is_file():
            return  # of a run with fewer processes
        with _reading(self._random_file(checkpoint)) as file:
            states = read_state(file)
            random.setstate(states["python"])
            np.random.set_state(states["numpy"])
            torch.set_rng_state(states["torch"])
            if self.args.device.type == "cuda" and states["cuda"] is not None:
                torch.cuda.set_rng_state(states["cuda"], self.args.device)
            if self.args.device.type == "mps" and states["mps"] is not None:
                torch.mps.set_rng_state(states["mps"])

    def _random_file(self, folder: str) -> Path:
        return Path(folder) / f"random-{self.args.process_index}.safetensors"

    @staticmethod
    def _write(file: Path, state: Any) -> None:
        try:
            write_state(file, state)
        except TypeError as error:
            raise RunError(
                f"a checkpoint cannot hold the state of this optimizer or schedule ({error})",
                "choose another in trainer_args, or set trainer_args: {save_strategy: no}",
            ) from error
