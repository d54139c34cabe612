"""What computes: device and number format, packed micro-batches, attention, the loss, the LoRA layers."""

from lorakit.engine.accelerate import accelerate
from lorakit.engine.attention import PACKED, register_packed_attention
from lorakit.engine.compilation import compiled_layers, decide_compilation, uncompiled
from lorakit.engine.decoder_coverage import NotCoveredError, decoder_fault
from lorakit.engine.decoding import Decoder
from lorakit.engine.decoding_weights import PACKINGS, Held, held_as_is
from lorakit.engine.device import FORMATS, DtypeChoice, choose_device, choose_dtype, device_memory, free_bytes
from lorakit.engine.half_weights import activation_dtype, hold_in_half
from lorakit.engine.kernels import KernelChoice, choose_kernels
from lorakit.engine.loss import PACKED_FAMILIES, LossSum, base_model, shares_beginning, summed_loss
from lorakit.engine.memory import (
    PROBE_TOKENS,
    MemoryPlan,
    MemoryPlanner,
    Probe,
    is_out_of_memory,
    peak_bytes,
    probe,
    release_memory,
    reset_peak,
)
from lorakit.engine.micro_batch import IGNORED_LABEL, MicroBatch, isolation_mask
from lorakit.engine.pictures import Picture, announce_pictures, grids, kept_feature_bytes, picture_inputs
from lorakit.engine.prefill import begin
from lorakit.engine.ranks import Ranks, is_lost_process, part_ranks, telling
from lorakit.engine.seeds import seed_of

__all__ = [
    "FORMATS",
    "IGNORED_LABEL",
    "PACKED",
    "PACKED_FAMILIES",
    "PACKINGS",
    "PROBE_TOKENS",
    "Decoder",
    "DtypeChoice",
    "Held",
    "KernelChoice",
    "LossSum",
    "MemoryPlan",
    "MemoryPlanner",
    "MicroBatch",
    "NotCoveredError",
    "Picture",
    "Probe",
    "Ranks",
    "accelerate",
    "activation_dtype",
    "announce_pictures",
    "base_model",
    "begin",
    "choose_device",
    "choose_dtype",
    "choose_kernels",
    "compiled_layers",
    "decide_compilation",
    "decoder_fault",
    "device_memory",
    "free_bytes",
    "grids",
    "held_as_is",
    "hold_in_half",
    "is_lost_process",
    "is_out_of_memory",
    "isolation_mask",
    "kept_feature_bytes",
    "part_ranks",
    "peak_bytes",
    "picture_inputs",
    "probe",
    "register_packed_attention",
    "release_memory",
    "reset_peak",
    "seed_of",
    "shares_beginning",
    "summed_loss",
    "telling",
    "uncompiled",
]
