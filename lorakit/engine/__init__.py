"""What computes: device and number format, packed micro-batches, attention, the loss, the LoRA layers."""

from lorakit.engine.accelerate import accelerate
from lorakit.engine.attention import PACKED, register_packed_attention
from lorakit.engine.budget import choose_token_budget, is_out_of_memory
from lorakit.engine.device import DtypeChoice, choose_device, choose_dtype
from lorakit.engine.loss import PACKED_FAMILIES, LossSum, summed_loss
from lorakit.engine.micro_batch import IGNORED_LABEL, MicroBatch, isolation_mask

__all__ = [
    "IGNORED_LABEL",
    "PACKED",
    "PACKED_FAMILIES",
    "DtypeChoice",
    "LossSum",
    "MicroBatch",
    "accelerate",
    "choose_device",
    "choose_dtype",
    "choose_token_budget",
    "is_out_of_memory",
    "isolation_mask",
    "register_packed_attention",
    "summed_loss",
]
