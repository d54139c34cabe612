"""How many tokens to compute at once: enough to be fast, few enough to fit."""

from __future__ import annotations

from typing import Any

import psutil
import torch

# Products of matrices are at full speed from a few hundred rows on; more only takes memory.
_ENOUGH_ON_CPU = 1024
_ENOUGH_ON_GPU = 16_384
_FEWEST = 256
_SHARE_OF_FREE_MEMORY = 0.4


def activation_bytes_per_token(model: Any) -> int:
    """Estimate what training keeps of one token until the backward pass, in bytes.

    Per layer about 12 values of the hidden size and 6 of the MLP's in two bytes each, as measured on the starter
    model; twice that in float32.
    """
    settings = model.config.get_text_config()
    hidden = settings.hidden_size
    inner = getattr(settings, "intermediate_size", None) or getattr(settings, "ffn_dim", None) or 4 * hidden
    width = next(parameter.element_size() for parameter in model.parameters() if not parameter.requires_grad)
    return int(settings.num_hidden_layers * (12 * hidden + 6 * inner) * width)


def choose_token_budget(model: Any, device: torch.device) -> int:
    """Choose ``max_tokens_per_microbatch`` for a model on its device."""
    if device.type == "cuda":
        free, enough = torch.cuda.mem_get_info(device)[0], _ENOUGH_ON_GPU
    else:
        free, enough = psutil.virtual_memory().available, _ENOUGH_ON_CPU
    fitting = int(_SHARE_OF_FREE_MEMORY * free / activation_bytes_per_token(model))
    return max(min(fitting, enough), _FEWEST)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell a lack of memory from all else that torch raises."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
