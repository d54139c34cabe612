"""Hugging Face's Trainer, fed with packed micro-batches and writing a record of every step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import get_worker_info
from transformers import PrinterCallback, TrainingArguments

from lorakit import console
from lorakit.data_processing import EncodedExample
from lorakit.data_processing.packing import pack_fullest_first, pack_under_budget
from lorakit.engine import (
    LossSum,
    MicroBatch,
    announce_pictures,
    base_model,
    is_out_of_memory,
    shares_beginning,
    summed_loss,
)
from lorakit.errors import RunError
from lorakit.evaluate.comparison import dataset_loss
from lorakit.runs import EvaluationRecord, RecordLog, StepRecord
from lorakit.train.alarms import Alarms, second_matrices
from lorakit.train.progress import ShowProgress
from lorakit.train.saving import SavingTrainer
from lorakit.train.sharding import most_over_ranks, shard_on_cpu

_INDICES = "indices"
_FEWEST_TOKENS = 16


@dataclass
class _Step:
    """The rows of the running optimizer step, and their loss so far."""

    sequences: Sequence[EncodedExample] = ()
    loss: float = 0.0

    @property
    def origins(self) -> str:
        return ", ".join(sequence.origin for sequence in self.sequences)


@dataclass(frozen=True)
class TokenBudget:
    """How an optimizer step is cut into passes.

    Attributes:
        most: Tokens in one forward and backward pass; halved where memory runs out.
        longest: Tokens of the longest micro-batch there could be, for the first step to begin with one as long, so that
            what does not fit shows at once; 0 where that is known already.
        most_added: How many tokens without loss the first step may be made longer by for that.
    """

    most: int
    longest: int
    most_added: float

    @property
    def halved(self) -> TokenBudget:
        """Half of it."""
        return replace(self, most=self.most // 2, longest=min(self.longest, self.most // 2))


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
        records: Where every step and every validation is written; None on ranks that write nothing.
        callbacks: Further callbacks of transformers.
    """

    control: Any  # of Trainer

    def __init__(
        self,
        *,
        model: Any,
        args: TrainingArguments,
        train_sequences: Sequence[EncodedExample],
        budget: TokenBudget,
        validation_sequences: Sequence[EncodedExample] | None,
        records: RecordLog | None,
        callbacks: list[Any],
    ) -> None:
        self._train_sequences = train_sequences
        self._budget = budget
        self._validation_sequences = validation_sequences
        self._records = records
        self.progress: ShowProgress | None = None
        self._step = _Step()
        self._alarms = Alarms(model.config.get_text_config().vocab_size, lambda: second_matrices(self.model))
        self._step_started = time.perf_counter()
        super().__init__(
            model=model,
            args=args,
            train_dataset=list(range(len(train_sequences))),
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

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return int(self.set_initial_training_values(self.args, self.get_train_dataloader())[-1])

    def _collate(self, indices: list[int]) -> dict[str, torch.Tensor]:
        sequences = [self._train_sequences[index] for index in indices]
        self._read_ahead(sequences)
        labels = [label for sequence in sequences for label in sequence.labels]  # from these the Trainer counts targets
        return {_INDICES: torch.tensor(indices), "labels": torch.tensor([labels])}

    def _read_ahead(self, sequences: Sequence[EncodedExample]) -> None:
        """Begin to read the pictures of a batch, which is made while the one before it is computed."""
        pictures = [picture for sequence in sequences for picture in sequence.pictures]
        if pictures and get_worker_info() is None:  # a worker process could not hand them over
            announce_pictures(base_model(self.model), pictures)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Take loss and gradients of all rows of an optimizer step on this rank.

        Args:
            model: In its distributed wrapper, if any.
            inputs: What `_collate` made.
            num_items_in_batch: Target tokens of the step over all ranks.

        Returns:
            This rank's share of the mean loss, times the number of ranks: gradients are averaged over ranks.
        """
        if not model.training:  # to tell each of a thousand modules takes longer than a product
            model.train()
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimizers
            self.optimizer.train()
        sequences = [self._train_sequences[index] for index in inputs[_INDICES].tolist()]
        while True:
            try:
                return self._forward_and_backward(model, sequences, num_items_in_batch)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.is_fsdp_enabled:  # sharded ranks must keep in step
                    raise
                self._halve_budget(sequences, error)
                model.zero_grad()

    def _forward_and_backward(
        self, model: Any, sequences: list[EncodedExample], num_items_in_batch: Any
    ) -> torch.Tensor:
        self._step = _Step(sequences)
        is_first_step = self.state.global_step == 0
        pack_all = pack_fullest_first if is_first_step else pack_under_budget
        micro_batches = list(pack_all(sequences, self._budget.most, self._shares_beginning))
        # Sharded ranks gather weights in every pass, so all must make as many: the surplus ones count for nothing.
        surplus = self._passes(len(micro_batches)) - len(micro_batches)
        weighted = [(micro_batch, 1.0) for micro_batch in micro_batches] + [(micro_batches[0], 0.0)] * surplus
        for number, (micro_batch, weight) in enumerate(weighted, start=1):
            # Ranks exchange gradients once a step, in the last pass.
            with nullcontext() if number == len(weighted) else self.accelerator.no_sync(model):
                computed = self._as_long_as_any(micro_batch) if is_first_step and number == 1 else micro_batch
                with self.compute_loss_context_manager():
                    nats = summed_loss(
                        model, computed.to(self.args.device), label_smoothing=self.args.label_smoothing_factor
                    )
                if not torch.isfinite(nats):
                    raise self._not_finite()
                loss = nats * weight / num_items_in_batch * self.accelerator.num_processes
                self.accelerator.backward(loss)
            self._step.loss += loss.item()  # zero where the weight is
            # Its graph has thousands of small parts, between which the freed activations would lie in pieces.
            del nats, loss
        return torch.tensor(self._step.loss, device=self.args.device)

    @cached_property
    def _shares_beginning(self) -> bool:
        return shares_beginning(self.model.train())

    def _as_long_as_any(self, micro_batch: MicroBatch) -> MicroBatch:
        """Lengthen the first micro-batch of the run to the longest there could be, where that costs little."""
        longest, own = self._budget.longest, micro_batch.tokens
        if longest - own <= self._budget.most_added:
            return micro_batch.lengthened(longest)
        console.note(f"there may be micro-batches of {longest} tokens; the first has {own}: see --task plan")
        return micro_batch

    def _passes(self, own: int) -> int:
        return most_over_ranks(self.accelerator, own) if self.is_fsdp_enabled else own

    def _halve_budget(self, sequences: list[EncodedExample], error: RuntimeError) -> None:
        longest = max(len(sequence.input_ids) for sequence in sequences)
        if (self._budget.most <= longest and len(sequences) == 1) or self._budget.most < _FEWEST_TOKENS:
            raise RunError(
                f"a row of {longest} tokens does not fit into memory",
                "lower max_length, or set trainer_args: {activation_checkpointing: true}, or choose a smaller model",
            ) from error
        self._budget = self._budget.halved
        console.warn(f"out of memory: the step is done again with at most {self._budget.most} tokens at once")

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
        if self._step.sequences:  # called once more at the end of an epoch, with no step in between
            self._record_step(float(grad_norm), learning_rate)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, *args, learning_rate=learning_rate, **kwargs)
        self._step_started = time.perf_counter()

    def _record_step(self, grad_norm: float, learning_rate: float | None) -> None:
        step, self._step = self._step, _Step()
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

    def _not_finite(self) -> RunError:
        return RunError(
            f"step {self.state.global_step + 1}: the loss is not finite, on {self._step.origins}",
            "lower learning_rate, or set torch_dtype: float32; the last checkpoint is intact",
        )
