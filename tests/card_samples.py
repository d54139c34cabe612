"""What model cards are made from."""

from lorakit.model_config import AdapterRecord
from lorakit.report import Loading


def record(**changes):
    given = {
        "base_model": "/home/somebody/models/base",
        "base_fingerprint": "0123456789abcdef" * 4,
        "template_hash": "f" * 64,
        "end_of_turn": "<|im_end|>",
        "system_prompt": None,
        "thinking": False,
        "rendering": "<|im_start|>user\nQ1<|im_end|>",
        "stop_tokens": ("<|im_end|>", "<|endoftext|>"),
    }
    return AdapterRecord(**{**given, **changes})


def loading(**changes):
    given = {
        "name": "base-lora",
        "base": "owner/base",
        "base_code": 'base = "owner/base"',
        "rank": 8,
        "stop_ids": (2, 0),
        "system_prompt": None,
        "thinks": None,
        "pixels": None,
        "has_own_template": True,
        "is_beyond_language": False,
        "lorakit_base": "owner/base",
    }
    return Loading(**{**given, **changes})
