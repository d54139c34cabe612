"""Hugging Face's Trainer, fed with packed micro-batches and writing a record of every step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import get_worker_info
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments

from lorakit import console
from lorakit.data_processing import EncodedExample
from lorakit.data_processing.tokens.packing import pack_fullest_first, pack_under_budget
from lorakit.engine import (
    LossSum,
    MicroBatch,
    Ranks,
    announce_pictures,
    base_model,
    is_out_of_memory,
    seed_of,
    shares_beginning,
)
from lorakit.errors import LorakitError, RunError
from lorakit.evaluate.comparison import ONE_TOKEN, dataset_loss
from lorakit.runs import CheckpointFacts, EvaluationRecord, StepRecord
from lorakit.train.alarms import Alarms, second_matrices
from lorakit.train.averaging import average_gradients
from lorakit.train.checkpoints.saving import SavingTrainer
from lorakit.train.checkpoints.sharding import most_over_ranks, shard_on_cpu
from lorakit.train.objectives.sft import SupervisedLoss
from lorakit.train.progress import ShowProgress
from lorakit.train.step import (
    Step,
    Surroundings,
    TokenBudget,
    Trace,
    add_gradients,
    does_not_fit,
    explaining_memory,
)

_INDICES = "indices"
_FEWEST_TOKENS = 16


class LoraTrainer(SavingTrainer):
    """Trains an adapter on sequences of token ids.

    The loss of an optimizer step is the mean over all target tokens of the step, whatever micro-batches, accumulation
    and ranks split it into.

    Args:
        model: A PEFT model.
        args: Of transformers.
        train_sequences: What to train on; ``per_device_train_batch_size`` of them make an optimizer step.
        budget: How a step is cut.
        validation_sequences: What validation takes its loss over; None for no validation.
        trace: Of the run.
        callbacks: Further callbacks of transformers.
    """

    def __init__(
        self,
        *,
        model: Any,
        args: TrainingArguments,
        train_sequences: Sequence[EncodedExample],
        budget: TokenBudget,
        validation_sequences: Sequence[EncodedExample] | None,
        trace: Trace,
        callbacks: list[Any],
    ) -> None:
        self._train_sequences = train_sequences
        self._budget = budget
        self._validation_sequences = validation_sequences
        self._records = trace.records
        self._mark = trace.mark
        self._check_base = trace.check_base
        self.progress: ShowProgress | None = None
        self._step: Step | None = None
        self._objective = SupervisedLoss(args.label_smoothing_factor)
        self._ranks = Ranks.of_environment()
        self._alarms = Alarms(
            model.config.get_text_config().vocab_size,
            lambda: second_matrices(self.model),
            trace.warn,
            keeps_best=bool(args.load_best_model_at_end),
        )
        self._step_started = time.perf_counter()
        super().__init__(
            model=model,
            args=args,
            train_dataset=range(len(train_sequences)),
            eval_dataset=validation_sequences,
            data_collator=self._collate,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)  # lorakit.console is the only room that prints
        self.model_accepts_loss_kwargs = True  # training_step divides by the whole step's targets itself

    def create_accelerator_and_postprocess(self) -> None:
        """Let FSDP shard on a CPU as well, where accelerate leaves it out without a word."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp and not self.is_fsdp_enabled:
            shard_on_cpu(self.accelerator.state, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def checkpoint_facts(self) -> CheckpointFacts:
        """Return what a checkpoint says of its run. Every rank must call this."""
        budgets = Ranks.of_environment().collect([self._budget.most])
        return CheckpointFacts(self._mark, self._budget.plan, tuple(budgets))

    def before_checkpoint(self) -> None:
        """Hold the base to what it was, and make the records of the steps durable that lead to the checkpoint."""
        self._check_base()
        if self._records is not None:
            self._records.make_durable()

    @property
    def is_over(self) -> bool:
        """Whether the run has come to its end: that of its steps, or of the patience of early stopping."""
        patience = [
            callback.early_stopping_patience - callback.early_stopping_patience_counter
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        ]
        return self.state.global_step >= self.state.max_steps or any(left <= 0 for left in patience)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Go through an epoch; a run that came to its end before it was resumed has none left to go through."""
        if self.is_over:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and validation loss of the adapter that is kept, where validation decides which one."""
        step, loss = self.state.best_global_step, self.state.best_metric
        return (step, loss) if self.args.load_best_model_at_end and step and loss is not None else None

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return int(self.set_initial_training_values(self.args, self.get_train_dataloader())[-1])

    def _get_dataloader(self, *args: Any, batch_size: int, is_training: bool = False, **kwargs: Any) -> Any:
        """Let every rank see the rows of the whole step, in the order of one process; `_collate` takes its share.

        accelerate would deal out whole batches of each rank, and repeat rows where the last ones do not suffice.
        """
        if not is_training or self._ranks.count == 1:
            return super()._get_dataloader(*args, batch_size=batch_size, is_training=is_training, **kwargs)
        whole = batch_size * self._ranks.count
        loader = super()._get_dataloader(*args, batch_size=whole, is_training=is_training, **kwargs)
        sampler = loader.batch_sampler
        sampler.num_processes, sampler.process_index, sampler.even_batches = 1, 0, False
        return loader

    def _collate(self, indices: list[int]) -> dict[str, torch.Tensor]:
        indices = list(self._ranks.share(indices))
        sequences = [self._train_sequences[index] for index in indices]
        self._read_ahead(sequences)
        labels = [label for sequence in sequences for label in sequence.labels]  # from these the Trainer counts targets
        return {
            _INDICES: torch.tensor(indices, dtype=torch.long),
            "labels": torch.tensor([labels], dtype=torch.long),
        }

    def _read_ahead(self, sequences: Sequence[EncodedExample]) -> None:
        """Begin to read the pictures of a batch, which is made while the one before it is computed."""
        pictures = [picture for sequence in sequences for picture in sequence.pictures]
        if pictures and get_worker_info() is None:  # a worker process could not hand them over
            announce_pictures(base_model(self.model), pictures)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Take loss and gradients of all rows of an optimizer step on this rank.

        Args:
            model: In its distributed wrapper, if any. DDP's is passed by: its first pass would wait for processes that
                have no row in this step.
            inputs: What `_collate` made.
            num_items_in_batch: Target tokens of the step over all ranks.

        Returns:
            This rank's share of the mean loss, times the number of ranks: gradients are averaged over ranks.
        """
        if not self.is_fsdp_enabled:
            model = self.accelerator.unwrap_model(model)
        if not model.training:  # to tell each of a thousand modules takes longer than a product
            model.train()
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimizers
            self.optimizer.train()
        seeds = (self.args.seed, self.state.global_step)
        numbers = inputs[_INDICES].tolist()
        sequences = [replace(self._train_sequences[number], seed=seed_of(*seeds, number)) for number in numbers]
        if self.is_fsdp_enabled:  # sharded ranks must keep in step, so that none can begin anew
            with explaining_memory(sequences):
                return self._forward_and_backward(model, sequences, num_items_in_batch)
        while True:
            loss, fault, is_short = self._attempt(model, sequences, num_items_in_batch)
            found = list(self._ranks.collect([(fault, is_short)]))
            if faults := [other for other, _ in found if other is not None]:
                raise fault or faults[0]
            short = [number for number, (_, is_short) in enumerate(found) if is_short]
            if not short:
                break
            for number in short:
                self._say_halved(number)
            model.zero_grad()
        if self._ranks.count > 1:
            trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
            average_gradients(trained, self._ranks.count)
        return loss

    def _attempt(
        self, model: Any, sequences: list[EncodedExample], num_items_in_batch: Any
    ) -> tuple[Any, LorakitError | None, bool]:
        """Try a step; return its loss, what ends the run, and whether memory did not suffice on this rank."""
        try:
            return self._forward_and_backward(model, sequences, num_items_in_batch), None, False
        except LorakitError as error:
            return None, error, False
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        fault = self._halve_budget(sequences)
        return None, fault, fault is None

    def _forward_and_backward(
        self, model: Any, sequences: list[EncodedExample], num_items_in_batch: Any
    ) -> torch.Tensor:
        self._step = step = Step(sequences)
        is_first_step = self.state.global_step == 0
        pack_all = pack_fullest_first if is_first_step else pack_under_budget
        micro_batches = list(pack_all(sequences, self._budget.most, self._shares_beginning)) if sequences else []
        # Sharded ranks gather weights in every pass, so all must make as many: the surplus ones count for nothing.
        surplus = self._passes(len(micro_batches)) - len(micro_batches)
        weighted = [(micro_batch, 1.0) for micro_batch in micro_batches]
        weighted += [(micro_batches[0] if micro_batches else ONE_TOKEN, 0.0)] * surplus
        if is_first_step and weighted:
            weighted[0] = (self._as_long_as_any(weighted[0][0]), weighted[0][1])
        around = Surroundings(
            self.compute_loss_context_manager,
            lambda is_last: self._exchanging(model, is_last),
            self.accelerator.backward,
            self.args.device,
        )
        scale = self.accelerator.num_processes / num_items_in_batch
        step.loss = add_gradients(model, weighted, self._objective, scale, around).item()
        if not math.isfinite(step.loss):
            raise self._not_finite(step)
        return torch.tensor(step.loss, device=self.args.device)

    def _exchanging(self, model: Any, is_last: bool) -> Any:
        """Return the context of a pass: only sharded ranks exchange gradients in one, in the last."""
        return self.accelerator.no_sync(model) if self.is_fsdp_enabled and not is_last else nullcontext()

    @cached_property
    def _shares_beginning(self) -> bool:
        return shares_beginning(self.model.train())

    def _as_long_as_any(self, micro_batch: MicroBatch) -> MicroBatch:
        """Lengthen the first micro-batch of the run to the longest there could be, where that costs little."""
        longest, own = self._budget.longest, micro_batch.tokens
        if longest - own <= self._budget.most_added:
            return micro_batch.lengthened(longest)
        console.detail(f"there may be micro-batches of {longest} tokens; the first has {own}: see --task plan")
        return micro_batch

    def _passes(self, own: int) -> int:
        return most_over_ranks(self.accelerator, own) if self.is_fsdp_enabled else own

    def _halve_budget(self, sequences: list[EncodedExample]) -> RunError | None:
        """Halve the token budget; return why that does not help, where it does not."""
        longest = max(len(sequence.input_ids) for sequence in sequences)
        if (self._budget.most <= longest and len(sequences) == 1) or self._budget.most < _FEWEST_TOKENS:
            return does_not_fit(longest)
        self._budget = self._budget.halved(self.state.global_step + 1)
        if self._records is not None:
            self._records.append(self._budget.plan)
        return None

    def _say_halved(self, number: int) -> None:
        """Say what became of a step; the first rank says it of the others as well, which print nothing."""
        if number == self._ranks.index:
            console.warn(f"out of memory: the step is done again with at most {self._budget.most} tokens at once")
        else:
            console.warn(f"out of memory on process {number}: the step is done again with half as many tokens at once")

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count nothing: events.jsonl has tokens and seconds."""
        return 0

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Take the validation loss over target tokens, each rank over its share of the rows; no logits are kept."""
        started = time.perf_counter()
        sequences = self._validation_sequences or ()
        share = sequences[self.args.process_index :: self.args.world_size]
        own = dataset_loss(self.model, share, self.args.device, self._passes)
        nats, targets = self._sum_over_ranks([own.nats, own.targets])
        loss = LossSum(nats, int(targets))
        metrics = {f"{metric_key_prefix}_loss": loss.mean}
        record = EvaluationRecord(
            step=self.state.global_step,
            epoch=self.state.epoch or 0.0,
            loss=loss.mean,
            rows=len(sequences),
            target_tokens=loss.targets,
            evaluation_seconds=time.perf_counter() - started,
        )
        if self._records is not None:
            self._records.append(record)
            self._show_epoch(record)
        self._alarms.evaluation(record)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, *args: Any, learning_rate: float | None = None, **kwargs: Any
    ) -> None:
        if self._step is not None:  # called once more at the end of an epoch, with no step in between
            self._record_step(self._step, float(grad_norm), learning_rate)
            self._step = None
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, *args, learning_rate=learning_rate, **kwargs)
        self._step_started = time.perf_counter()

    def _record_step(self, step: Step, grad_norm: float, learning_rate: float | None) -> None:
        # Each rank's loss is its share times the number of ranks.
        share = step.loss / self.accelerator.num_processes
        own_tokens = sum(len(sequence.input_ids) for sequence in step.sequences)
        own_targets = sum(sequence.targets for sequence in step.sequences)
        own = [share, len(step.sequences), own_tokens, own_targets]
        loss, rows, tokens, targets = self._sum_over_ranks(own)
        record = StepRecord(
            step=self.state.global_step,
            epoch=round(self.state.epoch or 0.0, 6),
            loss=loss,
            learning_rate=self._get_learning_rate() if learning_rate is None else learning_rate,
            grad_norm=grad_norm,
            rows=int(rows),
            tokens=int(tokens),
            target_tokens=int(targets),
            step_seconds=time.perf_counter() - self._step_started,
        )
        self._alarms.step(record, lambda: step.origins, is_scaled=self.args.fp16)
        if self._records is not None:
            self._records.append(record)
            if self.progress:
                self.progress.step(record)
                if self.args.eval_strategy == "no" and record.epoch == int(record.epoch):
                    self._show_epoch(None)

    def _show_epoch(self, validation: EvaluationRecord | None) -> None:
        if self.progress:
            self.progress.epoch(self.state.global_step, self.state.epoch or 0.0, validation)

    def _sum_over_ranks(self, values: list[float]) -> list[float]:
        if self.accelerator.num_processes == 1:
            return values
        exact = torch.float32 if self.args.device.type == "mps" else torch.float64
        summed = self.accelerator.reduce(torch.tensor(values, device=self.args.device, dtype=exact), reduction="sum")
        return [float(value) for value in summed]

    def _not_finite(self, step: Step) -> RunError:
        return RunError(
            f"step {self.state.global_step + 1}: the loss is not finite, on {step.origins}",
            "lower learning_rate, or set torch_dtype: float32; the last checkpoint is intact",
        )
