"""What computes: device and number format, packed micro-batches, the loss, the LoRA layers."""

from lorakit.engine.device import DtypeChoice, choose_device, choose_dtype
from lorakit.engine.lora_linear import accelerate_lora
from lorakit.engine.loss import LossSum, summed_loss
from lorakit.engine.micro_batch import MicroBatch, isolation_mask

__all__ = [
    "DtypeChoice",
    "LossSum",
    "MicroBatch",
    "accelerate_lora",
    "choose_device",
    "choose_dtype",
    "isolation_mask",
    "summed_loss",
]
