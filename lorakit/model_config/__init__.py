"""From the name of a model to a ModelBundle, with or without an adapter."""

from lorakit.model_config.adapters.adapter import (
    attach_adapter,
    check_adapter,
    load_adapter_tensors,
    save_adapter,
    unchanged_adapter,
    weights_hash,
)
from lorakit.model_config.adapters.adapter_set import COMBINATIONS, AdapterSet
from lorakit.model_config.adapters.choice import BASE, AdapterChoice, choose_adapters, read_weighted
from lorakit.model_config.adapters.lora import adapted_parts, attach_new_adapter
from lorakit.model_config.adapters.record import RECORD_FILE, AdapterRecord, read_record
from lorakit.model_config.adapters.tokenizer import adapter_tokenizer, check_rows
from lorakit.model_config.adapters.whole_embeddings import rows_in
from lorakit.model_config.added_tokens import add_tokens
from lorakit.model_config.checks.unchanged import FolderState
from lorakit.model_config.image_processor import load_image_processor
from lorakit.model_config.loading import (
    TESTED_FAMILIES,
    ModelBundle,
    choose_format,
    load_model,
    load_tokenizer,
    quiet_libraries,
    read_model_type,
)
from lorakit.model_config.source import ModelSource, locate_model, weight_files
from lorakit.model_config.weights.quantization import quantization_of
from lorakit.model_config.weights.sizes import bytes_saved, fewer_bits, weight_bytes

__all__ = [
    "BASE",
    "COMBINATIONS",
    "RECORD_FILE",
    "TESTED_FAMILIES",
    "AdapterChoice",
    "AdapterRecord",
    "AdapterSet",
    "FolderState",
    "ModelBundle",
    "ModelSource",
    "adapted_parts",
    "adapter_tokenizer",
    "add_tokens",
    "attach_adapter",
    "attach_new_adapter",
    "bytes_saved",
    "check_adapter",
    "check_rows",
    "choose_adapters",
    "choose_format",
    "fewer_bits",
    "load_adapter_tensors",
    "load_image_processor",
    "load_model",
    "load_tokenizer",
    "locate_model",
    "quantization_of",
    "quiet_libraries",
    "read_model_type",
    "read_record",
    "read_weighted",
    "rows_in",
    "save_adapter",
    "unchanged_adapter",
    "weight_bytes",
    "weight_files",
    "weights_hash",
]
