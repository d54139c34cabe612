"""How a Trainer saves and goes on: whole checkpoints or none, no pickles, and the same random numbers as before."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from lorakit.errors import RunError
from lorakit.model_config import load_adapter_tensors
from lorakit.runs import WRITING_FOLDER, publish
from lorakit.train.checkpoint_state import STATE_FILE
from lorakit.train.sharding import gather_trained, load_trained, sharded_optimizer_state, whole
from lorakit.train.state_files import read_state, write_state

_OPTIMIZER_FILE = "optimizer.safetensors"
_ADAPTER_FILE = "adapter_model.safetensors"
_PICKLED_FILE = "training_args.bin"  # which transformers leaves
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
    _is_writing = False

    def _get_output_dir(self, trial: Any) -> str:
        own = Path(super()._get_output_dir(trial))
        return str(own / WRITING_FOLDER) if self._is_writing else str(own)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        aside = folder / WRITING_FOLDER
        if self.args.should_save:
            if not folder.is_dir():  # to make it anew would hide that everything else in it is gone
                raise FileNotFoundError(2, "No such file or directory", str(folder))
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._is_writing = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_writing = False
        self.accelerator.wait_for_everyone()
        name = f"checkpoint-{self.state.global_step}"
        if self.state.best_global_step:  # transformers looked for it where this one was written
            self.state.best_model_checkpoint = str(folder / f"checkpoint-{self.state.best_global_step}")
        if self.args.should_save:
            (aside / name / _PICKLED_FILE).unlink(missing_ok=True)  # config_used.yaml says the same
            self.state.save_to_json(str(aside / name / STATE_FILE))
            publish(aside / name, folder / name)
            shutil.rmtree(aside, ignore_errors=True)
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )
        self.accelerator.wait_for_everyone()

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
            self._write(Path(output_dir) / _OPTIMIZER_FILE, states)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with _reading(Path(checkpoint) / _OPTIMIZER_FILE) as file:
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
            with _reading(folder / _OPTIMIZER_FILE) as file:
                load_trained(self.model, read_state(file)[_TRAINED])
        else:
            with _reading(folder / _ADAPTER_FILE) as file:
                load_adapter_tensors(self.model, file)

    def _load_best_model(self) -> None:
        """Load the best adapter of this run: a checkpoint may name any folder as the best one."""
        self._load_from_checkpoint(str(Path(self.args.output_dir) / Path(str(self.state.best_model_checkpoint)).name))

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
