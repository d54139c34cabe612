"""What computes: device and number format, packed micro-batches, the loss."""

from lorakit.engine.device import DtypeChoice, choose_device, choose_dtype
from lorakit.engine.loss import LossSum, summed_loss
from lorakit.engine.micro_batch import MicroBatch, isolation_mask

__all__ = ["DtypeChoice", "LossSum", "MicroBatch", "choose_device", "choose_dtype", "isolation_mask", "summed_loss"]
