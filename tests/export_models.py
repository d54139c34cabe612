"""Models and adapters to export, and GGUF files read by the package of llama.cpp's own project."""

import torch
from agreement_models import small_model
from conftest import family_config, family_tokenizer
from gguf import GGUFReader
from gguf.quants import dequantize
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lorakit.data_processing import ChatFormat
from lorakit.export.gguf.model import write_model_gguf
from lorakit.export.weights.tensors import ModelTensors


def random_model(family, **settings):
    """A tiny model of the real class whose every tensor is random, norms and biases too."""
    tokenizer = family_tokenizer(family)
    config = family_config(family, settings.pop("vocab_size", len(tokenizer)))
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model, tokenizer


# What llama.cpp computes of each family, where small_config draws something else.
OTHER_FAMILIES = {
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False, "sliding_window": None},
    "qwen3_moe": {"norm_topk_prob": True, "head_dim": 32},
    "smollm3": {},
    "phi3": {},
    "gemma2": {},
    "gemma3_text": {"num_hidden_layers": 6, "layer_types": None},
    "gpt_oss": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 32.0,
            "rope_theta": 150000.0,
            "original_max_position_embeddings": 64,
        }
    },
}


def other_family(family, **settings):
    """A small model of a family that has no fixture, and a tokenizer that llama.cpp has."""
    tokenizer = family_tokenizer("qwen3")
    chosen = {"vocab_size": len(tokenizer), "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    model = small_model(family, **{**chosen, **OTHER_FAMILIES[family], **settings})
    if model.config.tie_word_embeddings:
        model.tie_weights()
    return model, tokenizer


def tensors_of(model):
    state = model.state_dict()
    return ModelTensors({name: tuple(tensor.shape) for name, tensor in state.items()}, state.__getitem__)


def write(model, tokenizer, file, dtype="f32", tensors=None, stop_ids=None):
    chat_format = ChatFormat(tokenizer)
    stop_ids = stop_ids or [chat_format.end_of_turn_id]
    tensors = tensors or tensors_of(model)
    write_model_gguf(file, model.config, tensors, tokenizer, chat_format, stop_ids, dtype, "tiny")
    return file


def logits(model, ids=(5, 6, 7, 8, 100, 9, 6)):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits


def loaded(file, config=None):
    """The model that transformers' own loader makes of a GGUF file."""
    given = {} if config is None else {"config": config}
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="sdpa", **given
    ).eval()


def metadata(file):
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def tensor_formats(file):
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file).tensors}


def tensors_in(file):
    return {
        tensor.name: torch.tensor(dequantize(tensor.data, tensor.tensor_type)) for tensor in GGUFReader(file).tensors
    }


def adapted(model, **lora):
    """A PEFT model with an adapter that changes answers."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False} | lora
    torch.manual_seed(3)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
