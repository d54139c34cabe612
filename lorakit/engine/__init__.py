"""What computes: device and number format, packed micro-batches, attention, the loss, the LoRA layers."""

from lorakit.engine.backends.base import Backend
from lorakit.engine.backends.choose import choose_backend
from lorakit.engine.backends.number_format import FORMATS, DtypeChoice, choose_dtype
from lorakit.engine.decoder.coverage import NotCoveredError, decoder_fault
from lorakit.engine.decoder.decoder import Decoder
from lorakit.engine.decoder.prefill import begin
from lorakit.engine.decoder.weights import PACKINGS, Held, held_as_is
from lorakit.engine.images.pictures import Picture, announce_pictures, grids, kept_feature_bytes, picture_inputs
from lorakit.engine.layers.attach import attach_backend, backend_of, base_model
from lorakit.engine.layers.compilation import compiled_layers, decide_compilation, keep_compilation, uncompiled
from lorakit.engine.layers.half_weights import activation_dtype, hold_in_half
from lorakit.engine.layers.install import accelerate
from lorakit.engine.layers.packed_attention import PACKED, register_packed_attention
from lorakit.engine.loss import LossSum, Scores, shares_beginning, summed_loss, token_logprobs
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
from lorakit.engine.pieces import ALL, NONE, PACKED_FAMILIES, Pieces, pieces_of, use_pieces
from lorakit.engine.runtime.device import choose_device, device_memory, free_bytes
from lorakit.engine.runtime.ranks import Ranks, is_lost_process, part_ranks, telling
from lorakit.engine.runtime.seeds import seed_of

__all__ = [
    "ALL",
    "FORMATS",
    "IGNORED_LABEL",
    "NONE",
    "PACKED",
    "PACKED_FAMILIES",
    "PACKINGS",
    "PROBE_TOKENS",
    "Backend",
    "Decoder",
    "DtypeChoice",
    "Held",
    "LossSum",
    "MemoryPlan",
    "MemoryPlanner",
    "MicroBatch",
    "NotCoveredError",
    "Picture",
    "Pieces",
    "Probe",
    "Ranks",
    "Scores",
    "accelerate",
    "activation_dtype",
    "announce_pictures",
    "attach_backend",
    "backend_of",
    "base_model",
    "begin",
    "choose_backend",
    "choose_device",
    "choose_dtype",
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
    "keep_compilation",
    "kept_feature_bytes",
    "part_ranks",
    "peak_bytes",
    "picture_inputs",
    "pieces_of",
    "probe",
    "register_packed_attention",
    "release_memory",
    "reset_peak",
    "seed_of",
    "shares_beginning",
    "summed_loss",
    "telling",
    "token_logprobs",
    "uncompiled",
    "use_pieces",
]
